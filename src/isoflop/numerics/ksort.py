"""K-sort: reorder key channels so that the blocks of a block-floating-point KV cache agree in size.

Sorting the rows of W_k by norm and reordering W_q alike leaves every q . k unchanged, because both
sides of the dot product are permuted together; with rotary embeddings whole pairs (i, i + d/2)
move, so the rotation commutes with the permutation (the angles are permuted with their pairs).
Pairs keep their distance d/2, so blocks must be shorter than d/2 to gain.

References
----------
Trukhanov and Soloveychik, Accurate Block Quantization in LLMs with Outliers, arXiv 2403.20137.
"""

from __future__ import annotations

import numpy as np

from ..errors import InvalidInput


def permutation(key_weight: np.ndarray, head_dim: int, rotary: bool = True) -> np.ndarray:
    """The order of the rows of W_k (heads x head_dim, hidden): sorted by norm inside each head.

    With `rotary`, pairs (i, i + head_dim/2) are sorted by their joint norm and stay paired.
    """
    rows = key_weight.shape[0]
    if head_dim < 1 or rows % head_dim or (rotary and head_dim % 2):
        raise InvalidInput(
            f"W_k has {rows} rows, which do not divide into heads of {head_dim} "
            "(even, with rotary embeddings)."
        )
    power = (key_weight.astype(np.float64) ** 2).sum(1).reshape(-1, head_dim)
    half = head_dim // 2
    result = []
    for head, p in enumerate(power):
        if rotary:
            pairs = np.argsort(p[:half] + p[half:], kind="stable")
            order = np.concatenate([pairs, pairs + half])
        else:
            order = np.argsort(p, kind="stable")
        result.append(head * head_dim + order)
    return np.concatenate(result)
