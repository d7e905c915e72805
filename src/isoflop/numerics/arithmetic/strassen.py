"""Fault-tolerant products of 2 x 2 block matrices from two seven-product algorithms.

Strassen's and Winograd's algorithms give 14 block products. Every output block is a combination of
either algorithm's seven; running both, plus a few extra products, lets a missing or late product
be replaced by a combination of others, with 16 workers instead of three copies' 21.

References
----------
Strassen 1969; Winograd 1971; Fault-Tolerant Strassen-Like Matrix Multiplication, arXiv 2210.04441.
The two extra products here are found by search (`extra_products`), not copied from the paper.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import cache

import numpy as np

from ...errors import InvalidInput

STRASSEN = (
    ((1, 0, 0, 1), (1, 0, 0, 1)), ((0, 0, 1, 1), (1, 0, 0, 0)), ((1, 0, 0, 0), (0, 1, 0, -1)),
    ((0, 0, 0, 1), (-1, 0, 1, 0)), ((1, 1, 0, 0), (0, 0, 0, 1)), ((-1, 0, 1, 0), (1, 1, 0, 0)),
    ((0, 1, 0, -1), (0, 0, 1, 1)),
)  # fmt: skip
"""Factors (A11, A12, A21, A22), (B11, B12, B21, B22) of the seven products."""

WINOGRAD = (
    ((1, 0, 0, 0), (1, 0, 0, 0)), ((0, 1, 0, 0), (0, 0, 1, 0)), ((1, 1, -1, -1), (0, 0, 0, 1)),
    ((0, 0, 0, 1), (1, -1, -1, 1)), ((0, 0, 1, 1), (-1, 1, 0, 0)), ((-1, 0, 1, 1), (1, -1, 0, 1)),
    ((-1, 0, 1, 0), (0, -1, 0, 1)),
)  # fmt: skip
"""Winograd's seven; products six and seven share sums in the fast form."""

Product = tuple[tuple[int, ...], tuple[int, ...]]


def _tensor(product: Product) -> np.ndarray:
    """A product's coefficients of the 16 terms A_i B_j, shape (16,)."""
    return np.outer(*product).ravel().astype(float)


def targets() -> np.ndarray:
    """The four blocks of the product as coefficients of A_i B_j, shape (4, 16)."""
    result = np.zeros((4, 4, 4))
    for i, j, k in itertools.product(range(2), repeat=3):
        result[2 * i + j, 2 * i + k, 2 * k + j] = 1
    return result.reshape(4, 16)


def combination(products: tuple[Product, ...], present: tuple[int, ...]) -> np.ndarray | None:
    """Weights (4, present) that rebuild the product from those present, or None."""
    if not present:
        return None
    basis = np.stack([_tensor(products[i]) for i in present])
    weights, *_ = np.linalg.lstsq(basis.T, targets().T, rcond=None)
    if np.abs(basis.T @ weights - targets().T).max() > 1e-9:
        return None
    return weights.T


def tolerates(products: tuple[Product, ...], losses: int) -> float:
    """Share of sets of `losses` missing products from which the result can still be rebuilt."""
    n = len(products)
    cases = list(itertools.combinations(range(n), losses))
    good = sum(
        combination(products, tuple(i for i in range(n) if i not in lost)) is not None
        for lost in cases
    )
    return good / len(cases)


@cache
def extra_products(count: int = 2) -> tuple[Product, ...]:
    """Greedy search over factors in {-1, 0, 1} with up to two terms for the `count` products
    that, added to the 14, rebuild most double losses."""
    factors = [
        f for f in itertools.product((-1, 0, 1), repeat=4)
        if 1 <= sum(map(abs, f)) <= 2 and next(c for c in f if c) == 1
    ]  # fmt: skip
    chosen: list[Product] = []
    for _ in range(count):
        base = (*STRASSEN, *WINOGRAD, *chosen)
        fatal = [
            lost for lost in itertools.combinations(range(len(base)), 2)
            if combination(base, tuple(i for i in range(len(base)) if i not in lost)) is None
        ]  # fmt: skip

        def repaired(candidate: Product, base=base, fatal=fatal) -> int:
            more = (*base, candidate)
            return sum(
                combination(more, tuple(i for i in range(len(more)) if i not in lost)) is not None
                for lost in fatal
            )

        chosen.append(max(itertools.product(factors, factors), key=repaired))
    return tuple(chosen)


def multiply(
    a: np.ndarray, b: np.ndarray, products: tuple[Product, ...], lost: tuple[int, ...] = ()
) -> np.ndarray:
    """a b from block products, those in `lost` never arriving.

    Raises
    ------
    InvalidInput
        If the sizes are odd, or what is left cannot rebuild the result.
    """
    if any(n % 2 for n in (*a.shape, *b.shape)) or a.shape[1] != b.shape[0]:
        raise InvalidInput(f"Shapes {a.shape} and {b.shape} do not split into 2 x 2 blocks.")
    present = tuple(i for i in range(len(products)) if i not in lost)
    weights = combination(products, present)
    if weights is None:
        raise InvalidInput(f"Without the products {lost} the result cannot be rebuilt.")
    blocks_a = [h for half in np.vsplit(a, 2) for h in np.hsplit(half, 2)]
    blocks_b = [h for half in np.vsplit(b, 2) for h in np.hsplit(half, 2)]
    results = []
    for i in present:
        left, right = products[i]
        results.append(_sum_of(left, blocks_a) @ _sum_of(right, blocks_b))
    c = [sum(w * r for w, r in zip(row, results) if abs(w) > 1e-12) for row in weights]
    return np.block([[c[0], c[1]], [c[2], c[3]]])


def _sum_of(weights: Iterable[float], blocks: list[np.ndarray]) -> np.ndarray:
    total = np.zeros_like(blocks[0])
    for weight, block in zip(weights, blocks):
        if weight:
            total = total + weight * block
    return total
