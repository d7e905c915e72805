"""Mixed precision: one format per layer, least total error within a byte budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen

from ..errors import DoesNotFit, InvalidInput, MissingExtra


@frozen(kw_only=True)
class Allocation:
    """The optimum of the integer program.

    Attributes
    ----------
    choice : tuple of int
        Index of each layer's format.
    error : float
        Sum of the chosen errors.
    storage_bytes : int
    """

    choice: tuple[int, ...]
    error: float
    storage_bytes: int


def allocate(errors: np.ndarray, sizes: np.ndarray, budget_bytes: float) -> Allocation:
    """Pick one column per row of `errors` (layers, formats), least sum, `sizes` within the budget.

    Solved to optimality by HiGHS through scipy.optimize.milp.

    Raises
    ------
    DoesNotFit
        If even the smallest format of every layer exceeds the budget.
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array, csr_array
    except ImportError:
        raise MissingExtra("Mixed-precision allocation", "fit") from None
    errors, sizes = np.asarray(errors, float), np.asarray(sizes, float)
    if errors.shape != sizes.shape or errors.ndim != 2 or not np.isfinite(errors).all():
        raise InvalidInput("Errors and sizes must be finite matrices of layers by formats.")
    layers, formats = errors.shape
    least = float(sizes.min(1).sum())
    if least > budget_bytes:
        raise DoesNotFit(
            f"The smallest choice for every layer needs {least:.0f} bytes; the budget is "
            f"{budget_bytes:.0f}. Raise the budget or offer smaller formats.",
            needed_bytes=least, available_bytes=budget_bytes,
        )  # fmt: skip
    row = np.repeat(np.arange(layers), formats)
    one_each = coo_array((np.ones(layers * formats), (row, np.arange(layers * formats))))
    unit = errors.max() or 1.0
    found = milp(
        errors.ravel() / unit, integrality=np.ones(layers * formats), bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(csr_array(one_each), 1, 1),
            LinearConstraint(csr_array(sizes.reshape(1, -1)), -np.inf, budget_bytes),
        ],
    )  # fmt: skip
    if found.x is None:
        raise InvalidInput(f"The integer program was not solved: {found.message}")
    choice = found.x.reshape(layers, formats).argmax(1)
    picked = np.arange(layers), choice
    return Allocation(
        choice=tuple(int(c) for c in choice), error=float(errors[picked].sum()),
        storage_bytes=int(sizes[picked].sum()),
    )  # fmt: skip


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, error) that no other point beats in both, by rising cost."""
    order = sorted(range(len(points)), key=lambda i: points[i])
    best, kept = float("inf"), []
    for i in order:
        if points[i][1] < best:
            best = points[i][1]
            kept.append(i)
    return kept
