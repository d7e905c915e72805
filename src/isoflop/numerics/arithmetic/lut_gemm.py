"""Matrix products of 2-bit codes under any 16-entry product table.

A table T[a, w] over 2-bit codes is a polynomial in the four bits: with the Moebius transform
C = M T M^T, T[a, w] = sum over bit subsets i of a and j of w of C[i, j]. A sum of T over k is
then a weighted sum of population counts of ANDed bit planes, 64 positions a word: four of them
when both code books are affine, at most nine for any table at all. The lookups are replaced by
counting, and no shuffle instruction is needed.

References
----------
Ganji et al., DeepGEMM: Accelerated Ultra Low-Precision Inference on CPU Architectures Using Lookup
Tables, arXiv 2304.09049: products of 2-bit operands by a 16-entry table. There the table is read by
byte shuffles; the counting form is this project's own.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ...errors import InvalidInput

MOEBIUS = np.array([[1, 0, 0, 0], [-1, 1, 0, 0], [-1, 0, 1, 0], [1, -1, -1, 1]])
WORD = 64
_BYTE_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)


@frozen(kw_only=True, eq=False)
class Planes:
    """Packed 2-bit codes.

    Attributes
    ----------
    planes : np.ndarray
        uint64 (3, rows, words): low bits, high bits, their AND.
    counts : np.ndarray
        Ones of each plane by row, int64 (3, rows).
    length : int
        Codes per row.
    """

    planes: np.ndarray
    counts: np.ndarray
    length: int


def pack(codes: np.ndarray) -> Planes:
    """Pack codes 0..3 of shape (rows, k)."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.dtype.kind not in "ui":
        raise InvalidInput(f"Codes of shape {codes.shape} and type {codes.dtype} are no matrix.")
    if codes.size and (codes.min() < 0 or codes.max() > 3):
        raise InvalidInput("2-bit codes are 0 to 3; some are outside.")
    length = codes.shape[1]
    codes = np.pad(codes.astype(np.uint8, copy=False), ((0, 0), (0, -codes.shape[1] % WORD)))
    low = np.packbits(codes & 1, axis=-1, bitorder="little")
    high = np.packbits(codes >> 1, axis=-1, bitorder="little")
    packed = np.stack([low, high, low & high])
    return Planes(
        planes=packed.view(np.uint64), counts=_BYTE_ONES[packed].sum(-1, dtype=np.int64),
        length=length,
    )  # fmt: skip


def matmul(a: Planes, w: Planes, table: np.ndarray) -> np.ndarray:
    """sum_k T[a_mk, w_nk] for all m, n: int64 of shape (rows of a, rows of w).

    Parameters
    ----------
    table : integers (4, 4)
        Scale real-valued code books to integers first, or use `codebook_matmul`.
    """
    table = np.asarray(table)
    if table.shape != (4, 4) or table.dtype.kind not in "iu":
        raise InvalidInput(f"The table is {table.dtype} {table.shape}; 4 x 4 integers are needed.")
    if a.length != w.length:
        raise InvalidInput(f"Rows of {a.length} and {w.length} codes cannot be multiplied.")
    c = MOEBIUS @ table.astype(np.int64) @ MOEBIUS.T
    out = np.empty((a.planes.shape[1], w.planes.shape[1]), np.int64)
    out[...] = c[0, 0] * a.length + (c[1:, 0] @ a.counts)[:, None] + (c[0, 1:] @ w.counts)[None, :]
    _products(a, w, c[1:, 1:], out)
    return out


def _products(a: Planes, w: Planes, c: np.ndarray, out: np.ndarray) -> None:
    try:
        from . import _popcount
    except (ImportError, RuntimeError):
        _plain(a, w, c, out)
        return
    simple = not c[2].any() and not c[:, 2].any()
    body = _popcount.affine if simple else _popcount.full
    body(a.planes, w.planes, np.ascontiguousarray(c), out)


def _plain(a: Planes, w: Planes, c: np.ndarray, out: np.ndarray) -> None:
    """Without numba: unpacked planes through float matrix products (exact below 2^24)."""
    for i, j in zip(*np.nonzero(c)):
        x, y = (np.unpackbits(p[q].view(np.uint8), axis=-1).astype(np.float32)
                for p, q in ((a.planes, i), (w.planes, j)))  # fmt: skip
        out += c[i, j] * np.rint(x @ y.T).astype(np.int64)


def codebook_matmul(a: Planes, w: Planes, book_a: np.ndarray, book_w: np.ndarray) -> np.ndarray:
    """sum_k u[a_mk] v[w_nk] for integer code books u, v of four values each."""
    return matmul(a, w, np.multiply.outer(np.asarray(book_a), np.asarray(book_w)))
