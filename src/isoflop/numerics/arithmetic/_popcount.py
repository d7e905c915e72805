"""Numba bodies of the 2-bit product: AND and population count over 64 positions at a time."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

intrinsic: Any = _intrinsic  # it drops the typing context from what it decorates

_OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy"}


@intrinsic
def _ones(typing_context, a):
    """Number of one bits of a uint64."""

    def emit(context, builder, signature, arguments):
        count = builder.module.declare_intrinsic("llvm.ctpop", [ir.IntType(64)])
        return builder.call(count, arguments)

    return types.uint64(types.uint64), emit


@numba.njit(**_OPTIONS)
def _weigh(c, s00, s01, s10, s11):
    return (
        c[0, 0] * np.int64(s00) + c[0, 1] * np.int64(s01)
        + c[1, 0] * np.int64(s10) + c[1, 1] * np.int64(s11)
    )  # fmt: skip


@numba.njit(**_OPTIONS)
def _one(a0, a1, w0, w1, c):
    s00 = s01 = s10 = s11 = np.uint64(0)
    for k in range(a0.size):
        s00 += _ones(a0[k] & w0[k])
        s01 += _ones(a0[k] & w1[k])
        s10 += _ones(a1[k] & w0[k])
        s11 += _ones(a1[k] & w1[k])
    return _weigh(c, s00, s01, s10, s11)


@numba.njit(**_OPTIONS)
def affine(a, w, c, out):
    """out += sum_ij c_ij |a_i & w_j| over the two bit planes of each side (integers).

    Two rows of each side at a time, so that each word loaded is used twice.
    """
    rows, columns = a.shape[1], w.shape[1]
    for m in range(0, rows - 1, 2):
        a0, a1, b0, b1 = a[0, m], a[1, m], a[0, m + 1], a[1, m + 1]
        for n in range(0, columns - 1, 2):
            w0, w1, v0, v1 = w[0, n], w[1, n], w[0, n + 1], w[1, n + 1]
            s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.uint64(0)
            t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = np.uint64(0)
            for k in range(a.shape[2]):
                x0, x1, y0, y1 = a0[k], a1[k], b0[k], b1[k]
                p0, p1, q0, q1 = w0[k], w1[k], v0[k], v1[k]
                s0 += _ones(x0 & p0)
                s1 += _ones(x0 & p1)
                s2 += _ones(x1 & p0)
                s3 += _ones(x1 & p1)
                s4 += _ones(x0 & q0)
                s5 += _ones(x0 & q1)
                s6 += _ones(x1 & q0)
                s7 += _ones(x1 & q1)
                t0 += _ones(y0 & p0)
                t1 += _ones(y0 & p1)
                t2 += _ones(y1 & p0)
                t3 += _ones(y1 & p1)
                t4 += _ones(y0 & q0)
                t5 += _ones(y0 & q1)
                t6 += _ones(y1 & q0)
                t7 += _ones(y1 & q1)
            out[m, n] += _weigh(c, s0, s1, s2, s3)
            out[m, n + 1] += _weigh(c, s4, s5, s6, s7)
            out[m + 1, n] += _weigh(c, t0, t1, t2, t3)
            out[m + 1, n + 1] += _weigh(c, t4, t5, t6, t7)
    for m in range(rows):
        for n in range(columns):
            if m < rows - rows % 2 and n < columns - columns % 2:
                continue
            out[m, n] += _one(a[0, m], a[1, m], w[0, n], w[1, n], c)


@numba.njit(**_OPTIONS)
def full(a, w, c, out):
    """As `affine` over three planes each: the two bits and their AND."""
    for m in range(a.shape[1]):
        for n in range(w.shape[1]):
            total = np.int64(0)
            for i in range(3):
                for j in range(3):
                    if c[i, j] == 0:
                        continue
                    s = np.uint64(0)
                    for k in range(a.shape[2]):
                        s += _ones(a[i, m, k] & w[j, n, k])
                    total += c[i, j] * np.int64(s)
            out[m, n] += total
