"""Matrix products of 1- to 4-bit weight codes under any product table, by lookup.

Weights are packed as 4-bit indices: four positions of 1 bit, two of 2 bits, one of 3 or 4. For each
row of the left side and each index a table of 16 sums of products is made from the product table,
and one byte shuffle reads it for 32 rows of weights (`_lookup`). Entries of more than seven bits
are split into digits and multiplied once per digit, so any integer table works, also 8-bit codes on
the left.

On CPUs that count the bits of vectors (AVX-512 VPOPCNTDQ) 2-bit products whose table is a product
of two affine code books are counted instead: by the Moebius transform C = M T M^T the table is a
polynomial in the four bits, so its sum over k is a weighted sum of population counts of ANDed bit
planes, four for such a table and at most nine for any. Without AVX2 that form serves all 2-bit
tables; without numba the product is a sum of float products over codes.

References
----------
Ganji et al., DeepGEMM: Accelerated Ultra Low-Precision Inference on CPU Architectures Using Lookup
Tables, arXiv 2304.09049: products of 2-bit operands from a 16-entry table read by byte shuffles.
There an index holds one bit pair of each operand; here two positions of the weights, so a shuffle
reads two products. The counting form is this project's own.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Literal

import numpy as np
from attrs import frozen

from ...errors import InvalidInput
from ..packing import pack as pack_codes
from ..packing import unpack as unpack_codes

MOEBIUS = np.array([[1, 0, 0, 0], [-1, 1, 0, 0], [-1, 0, 1, 0], [1, -1, -1, 1]])
WORD = 64
DIGIT = 128
"""Base of the digits table entries are split into."""
ROWS = 64
"""Rows of the left side whose tables are held at once."""
MOST_TABLES = 1 << 16

Method = Literal["lookup", "count", "plain"]


@frozen(kw_only=True, eq=False, slots=False)
class Packed:
    """Weights of shape (rows, k) as packed codes; what a kernel needs is made when first used.

    Attributes
    ----------
    words : np.ndarray
        uint8, see `isoflop.numerics.pack`.
    bits : int
        1 to 4.
    length : int
        Codes per row, k.
    """

    words: np.ndarray
    bits: int
    length: int

    @property
    def codes(self) -> np.ndarray:
        """uint8 (rows, k)."""
        return unpack_codes(self.words, self.bits, self.length)

    @property
    def positions(self) -> int:
        """Codes in a 4-bit index."""
        return 4 // self.bits

    @cached_property
    def indices(self) -> np.ndarray:
        """The layout of `_lookup.lookup_sums`, uint8 (groups, steps, GROUP)."""
        from ._lookup import GROUP, LANES

        p = self.positions
        codes = self.codes
        pad = (-len(codes) % GROUP, -self.length % (2 * p))
        codes = np.pad(codes, ((0, pad[0]), (0, pad[1])))
        index = np.bitwise_or.reduce([codes[:, j::p] << (self.bits * j) for j in range(p)])
        both = index[:, 0::2] | (index[:, 1::2] << 4)
        lanes = np.arange(LANES).reshape(2, 16).T.ravel()
        both = both.reshape(-1, LANES, both.shape[1])[:, lanes].reshape(-1, GROUP, both.shape[1])
        return np.ascontiguousarray(both.transpose(0, 2, 1))

    @cached_property
    def planes(self) -> tuple[np.ndarray, np.ndarray]:
        """Bit planes of 2-bit codes, see `_planes`."""
        return _planes(self.codes)


def pack(codes: np.ndarray, bits: int = 2) -> Packed:
    """Pack weight codes of shape (rows, k), 0 to 2^bits - 1.

    Raises
    ------
    InvalidInput
        For other shapes, other types, widths outside 1 to 4, or codes that do not fit.
    """
    if not 1 <= bits <= 4:
        raise InvalidInput(f"Codes of {bits} bits are not looked up; 1 to 4 bits are.")
    codes = _codes(codes, 1 << bits)
    return Packed(words=pack_codes(codes, bits), bits=bits, length=codes.shape[1])


def _codes(codes: np.ndarray, count: int) -> np.ndarray:
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.dtype.kind not in "ui" or not codes.size:
        raise InvalidInput(f"Codes of shape {codes.shape} and type {codes.dtype} are no matrix.")
    if codes.min() < 0 or codes.max() >= count:
        raise InvalidInput(f"Codes run from 0 to {count - 1} here; some are outside.")
    return codes.astype(np.uint8, copy=False)


def matmul(a: np.ndarray, w: Packed, table: np.ndarray, method: Method | None = None) -> np.ndarray:
    """sum_k T[a_mk, w_nk] for all m, n: int64 of shape (rows of a, rows of w).

    Parameters
    ----------
    a : unsigned integers (m, k)
        Codes of the left side, at most 256 different ones.
    table : integers (codes of a, 2^bits)
        Scale real-valued code books to integers first.
    method : {"lookup", "count", "plain"}, optional
        Kernel; the fastest that this CPU has unless told.

    Raises
    ------
    InvalidInput
        For tables, codes or lengths that do not fit, or a kernel that is not available.
    """
    table = np.asarray(table)
    columns = 1 << w.bits
    if table.ndim != 2 or table.shape[1] != columns or table.dtype.kind not in "iu":
        raise InvalidInput(
            f"The table is {table.dtype} {table.shape}; integers of shape (codes of the left side, "
            f"{columns}) are needed."
        )
    if not 1 <= len(table) <= 256 or len(table) ** w.positions > MOST_TABLES:
        raise InvalidInput(f"{len(table)} codes on the left are too many for {w.bits}-bit weights.")
    a = _codes(a, len(table))
    if a.shape[1] != w.length:
        raise InvalidInput(f"Rows of {a.shape[1]} and {w.length} codes cannot be multiplied.")
    table = table.astype(np.int64)
    kernels = _kernels()
    chosen = method or _fastest(table, w, kernels)
    if chosen != "plain" and chosen not in kernels:
        raise InvalidInput(f"The kernel '{chosen}' is not available here; it needs numba or AVX2.")
    if chosen == "count":
        return _count(a, w, table)
    return _lookup_product(a, w, table) if chosen == "lookup" else _plain(a, w, table)


def codebook_matmul(a: np.ndarray, w: Packed, book_a: np.ndarray, book_w: np.ndarray) -> np.ndarray:
    """sum_k u[a_mk] v[w_nk] for integer code books u (of the left side) and v (2^bits values)."""
    return matmul(a, w, np.multiply.outer(np.asarray(book_a), np.asarray(book_w)))


@cache
def _kernels() -> frozenset[str]:
    try:
        from llvmlite import binding

        from . import _lookup
    except (ImportError, RuntimeError):
        return frozenset()
    found = {"count"} | ({"lookup"} if _lookup.available() else set())
    counts = binding.get_host_cpu_features().get("avx512vpopcntdq")
    return frozenset(found | ({"count fast"} if counts else set()))


def _fastest(table: np.ndarray, w: Packed, kernels: frozenset[str]) -> Method:
    if w.bits == 2 and table.shape == (4, 4) and "count" in kernels:
        c = MOEBIUS @ table @ MOEBIUS.T
        affine = not c[3].any() and not c[:, 3].any()
        if "lookup" not in kernels or ("count fast" in kernels and affine):
            return "count"
    return "lookup" if "lookup" in kernels else "plain"


def _lookup_product(a: np.ndarray, w: Packed, table: np.ndarray) -> np.ndarray:
    from ._lookup import lookup_sums

    p, most = w.positions, len(table)
    entries = _index_tables(table, w)
    least = int(entries.min())
    entries = entries - least
    pad = -a.shape[1] % (2 * p)
    out = np.full((len(a), len(w.words)), least * ((w.length + pad) // p), np.int64)
    for first in range(0, len(a), ROWS):
        part = np.pad(a[first : first + ROWS], ((0, 0), (0, pad)))
        which = part[:, 0::p].astype(np.uint32)
        for j in range(1, p):
            which += part[:, j::p] * np.uint32(most**j)
        left, weight = entries, 1
        while left.any():
            digit = (left % DIGIT).astype(np.uint8)
            sums = lookup_sums(w.indices, np.take(digit, which.reshape(len(part), -1, 2), axis=0))
            out[first : first + ROWS] += weight * sums[:, : len(w.words)].astype(np.int64)
            left, weight = left // DIGIT, weight * DIGIT
    if pad:
        # positions beyond the end hold code 0 on both sides
        out -= pad * int(table[0, 0])
    return out


def _index_tables(table: np.ndarray, w: Packed) -> np.ndarray:
    """Sum of products for every combination of left codes and every index: (most^p, 16)."""
    p, most = w.positions, len(table)
    index = np.arange(16)
    picks = [(index >> (w.bits * j)) & ((1 << w.bits) - 1) for j in range(p)]
    left = np.arange(most**p)
    return np.sum([table[(left // most**j) % most][:, picks[j]] for j in range(p)], axis=0)


def _planes(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint64 (3, rows, words): low bits, high bits, their AND; and the ones of each by row."""
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % WORD)))
    low = np.packbits(codes & 1, axis=-1, bitorder="little")
    high = np.packbits(codes >> 1, axis=-1, bitorder="little")
    packed = np.stack([low, high, low & high])
    ones = np.unpackbits(packed, axis=-1).sum(-1, dtype=np.int64)
    return packed.view(np.uint64), ones


def _count(a: np.ndarray, w: Packed, table: np.ndarray) -> np.ndarray:
    from . import _popcount

    if w.bits != 2 or table.shape != (4, 4):
        raise InvalidInput("Counting bits takes 2-bit codes on both sides. Use method='lookup'.")
    (left, left_ones), (right, right_ones) = _planes(a), w.planes
    c = MOEBIUS @ table @ MOEBIUS.T
    out = np.empty((len(a), len(w.words)), np.int64)
    out[...] = (
        c[0, 0] * w.length + (c[1:, 0] @ left_ones)[:, None] + (c[0, 1:] @ right_ones)[None, :]
    )
    inner = np.ascontiguousarray(c[1:, 1:])
    simple = not inner[2].any() and not inner[:, 2].any()
    (_popcount.affine if simple else _popcount.full)(left, right, inner, out)
    return out


def _plain(a: np.ndarray, w: Packed, table: np.ndarray) -> np.ndarray:
    """One float64 product per weight code (exact below 2^53)."""
    codes = w.codes
    out = np.zeros((len(a), len(codes)))
    for code in range(1 << w.bits):
        out += table[:, code].astype(np.float64)[a] @ (codes == code).T.astype(np.float64)
    return np.rint(out).astype(np.int64)
