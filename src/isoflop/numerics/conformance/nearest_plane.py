"""GPTQ against Babai's nearest plane: the same integers, and the error bound never passed."""

from __future__ import annotations

import numpy as np

from ..quantizers.babai import bound, nearest_plane
from ..quantizers.gptq import inverse_factor, propagate
from ._base import Record, record

LAYERS = 1000


def check() -> list[Record]:
    """Random layers without clipping, GPTQ run from the last channel to the first."""
    rng = np.random.default_rng(0)
    compared = different = rows_compared = broken = 0
    for _ in range(LAYERS):
        n, rows = int(rng.integers(2, 24)), int(rng.integers(1, 6))
        x = rng.standard_normal((2 * n, n)) * np.exp(rng.standard_normal(n))
        hessian, weight = x.T @ x, rng.standard_normal((rows, n)) * 4
        scale = np.exp(rng.uniform(-1, 1, (rows, n)))
        upper, _ = inverse_factor(hessian[::-1, ::-1], 0.0)
        steps = scale[:, ::-1]

        def nearest(j, column, steps=steps):
            return np.rint(column / steps[:, j]) * steps[:, j]

        by_gptq = propagate(weight[:, ::-1].T.copy(), upper, nearest).T[:, ::-1] / scale
        by_babai, diagonal = nearest_plane(weight, hessian, scale, -np.inf, np.inf)
        compared += by_babai.size
        different += int((np.rint(by_gptq) != by_babai).sum())
        error = by_babai * scale - weight
        loss = np.einsum("ij,ij->i", error @ hessian, error)
        rows_compared += rows
        broken += int((loss > bound(scale, diagonal, rows) * (1 + 1e-9)).sum())
    return [
        record(f"integers of GPTQ on {LAYERS} random layers", "Babai", compared, different),
        record("rows whose error is within the bound", "Babai's bound", rows_compared, broken),
    ]
