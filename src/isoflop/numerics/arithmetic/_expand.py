"""Numba body of products with code words, for few rows on the left."""

from __future__ import annotations

from functools import cache

import numba
import numpy as np

from .._bits import as_float, shl

PIECE = 2048
"""Weights expanded at a time: 8 KiB of float32, a quarter of a first-level cache."""

_SUMS = {"nogil": True, "cache": True, "boundscheck": False, "fastmath": {"reassoc", "contract"}}


@numba.njit(**_SUMS)
def _dot(a, b):
    total = np.float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@cache
def expansion(shifted: bool):
    """body(codes, table, out): the values of flat codes, by table or (`shifted`) by a shift."""

    @numba.njit(nogil=True, cache=True, boundscheck=False)
    def body(codes, table, out):
        for i in range(codes.size):
            if shifted:
                out[i] = as_float(shl(np.uint32(codes[i]), np.uint32(16)))
            else:
                out[i] = table[codes[i]]

    return body


@cache
def few_rows(shifted: bool):
    """body(x, codes, table, out): each piece of a row of weights is expanded once, then used for
    every row of `x`. `shifted`: the code is the upper half of its float32 (bfloat16)."""
    expand = expansion(shifted)

    @numba.njit(nogil=True, cache=True, boundscheck=False)
    def body(x, codes, table, out):
        k = x.shape[1]
        buffer = np.empty(PIECE, np.float32)
        out[:] = np.float32(0)
        for n in range(codes.shape[0]):
            for first in range(0, k, PIECE):
                size = min(PIECE, k - first)
                weights = buffer[:size]
                expand(codes[n, first : first + size], table, weights)
                for m in range(x.shape[0]):
                    out[m, n] += _dot(x[m, first : first + size], weights)

    return body
