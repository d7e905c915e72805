"""Sums and products whose bits do not depend on threads, blocks or batch size.

The order of every addition is fixed by the shapes alone: over k one after the other, no split, no
atomics, multiply and add rounded separately. Threads divide the outputs, never a sum.

References
----------
Verde / RepOps, arXiv 2502.19405. LayerCast (16-bit storage, 32-bit arithmetic): Give Me FP32 or
Give Me Death, arXiv 2506.09501.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from ...errors import InvalidInput


def matmul(a: np.ndarray, b: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """a (m, k) times b (k, n) in float32, terms added in order of k."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise InvalidInput(f"Shapes {a.shape} and {b.shape} cannot be multiplied.")
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    result = np.zeros((a.shape[0], b.shape[1]), np.float32)

    def rows(part: slice) -> None:
        out = result[part]
        for k in range(a.shape[1]):
            out += a[part, k, None] * b[k]

    edges = np.linspace(0, a.shape[0], max(threads, 1) + 1).astype(int)
    parts = [slice(i, j) for i, j in pairwise(edges) if j > i]
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        list(pool.map(rows, parts))
    return result


def total(x: np.ndarray) -> np.float32:
    """Sum of a float32 array by halves: x[i] + x[i + n/2] until one value is left.

    The order depends on the length only; the error grows with log n rather than n.
    """
    flat = np.asarray(x, np.float32).ravel()
    while flat.size > 1:
        if flat.size % 2:
            flat = np.append(flat, np.float32(0))
        half = flat.size // 2
        flat = flat[:half] + flat[half:]
    return flat[0] if flat.size else np.float32(0)


def layercast(a: np.ndarray, stored: np.ndarray, *, threads: int = 1) -> np.ndarray:
    """a times a bfloat16 weight given as uint16 words (k, n), expanded when used, in float32."""
    words = np.asarray(stored)
    if words.dtype != np.uint16:
        raise InvalidInput(f"The stored weight is {words.dtype}; uint16 words are needed.")
    return matmul(a, (words.astype(np.uint32) << np.uint32(16)).view(np.float32), threads=threads)
