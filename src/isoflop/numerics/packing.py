"""Code words of 1 to 8 bits packed without gaps, little end first.

Value i of a row occupies bits [i b, (i + 1) b) of the row's bytes, bit 0 being the lowest of
byte 0; rows start on byte boundaries. Any width works, also 3, 5, 6 and 7 (arXiv 2504.12984).
"""

from __future__ import annotations

import numpy as np

from ..errors import InvalidInput


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack uint8 codes along the last axis: shape (..., n) to (..., ceil(n bits / 8)).

    Raises
    ------
    InvalidInput
        For a width outside 1..8 or a code that does not fit it.
    """
    codes = np.asarray(codes)
    _check(bits)
    if codes.size and int(codes.max()) >> bits:
        raise InvalidInput(f"A code is {int(codes.max())}, which does not fit {bits} bits.")
    flags = np.unpackbits(codes.astype(np.uint8)[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(flags.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The first `count` codes of each packed row, uint8, shape (..., count)."""
    _check(bits)
    packed = np.asarray(packed, dtype=np.uint8)
    if packed.shape[-1] * 8 < count * bits:
        raise InvalidInput(
            f"{packed.shape[-1]} bytes hold {packed.shape[-1] * 8 // bits} codes of {bits} bits; "
            f"{count} were asked for."
        )
    flags = np.unpackbits(packed, axis=-1, count=count * bits, bitorder="little")
    groups = flags.reshape(*packed.shape[:-1], count, bits)
    return np.packbits(groups, axis=-1, bitorder="little")[..., 0]


def _check(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise InvalidInput(f"Codes of {bits} bits cannot be packed; 1 to 8 bits can.")
