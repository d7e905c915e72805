"""Products with weights kept as code words and expanded to float32 as they are loaded.

The weights never exist as floats in memory: a tile of rows is expanded by table into a buffer that
stays in the cache and is multiplied from there. With few rows on the left each weight is used once
per expansion, so the product reads one or two bytes per weight instead of four; with many the
tile goes to the BLAS and the expansion is a small part.

References
----------
Rossi, Cococcioni, Ferrer Ibanez et al., Compressed Real Numbers for AI: a case-study using a
RISC-V CPU, arXiv 2309.07867: posits and bfloats in memory, binary32 in registers. There the
expansion is an instruction; here it is a table lookup (a shift for bfloat16).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ...errors import InvalidInput
from .._host import code_dtype
from ..formats import BlockFormat, load

TILE_BYTES = 1 << 21
"""Memory of the expanded tile; at least one row of weights is expanded at a time."""

FEW_ROWS = 8
"""Rows on the left up to which the product is taken value by value as the tile expands."""

MOST_BITS = 16


def matmul(x: np.ndarray, codes: np.ndarray, format: Any) -> np.ndarray:
    """x times the transposed weights that `codes` mean, summed in float32.

    Parameters
    ----------
    x : float32 (m, k)
    codes : unsigned integers (n, k)
        Code words from `isoflop.numerics.encode`. NaN and NaR codes give NaN.
    format : str or scalar format record of at most 16 bits

    Returns
    -------
    np.ndarray
        float32 (m, n). Beyond the operands it takes `TILE_BYTES` or one row of weights.

    Raises
    ------
    InvalidInput
        For formats with scales or wider codes, shapes that do not fit, or codes that do not exist.
    """
    fmt = load(format) if isinstance(format, str) else format
    if isinstance(fmt, BlockFormat):
        raise InvalidInput(f"'{fmt.name}' has scales beside its codes; take a scalar format.")
    if fmt.bits > MOST_BITS:
        raise InvalidInput(
            f"'{fmt.name}' has {fmt.bits} bits; up to {MOST_BITS} are expanded by table."
        )
    x, codes = np.ascontiguousarray(x, np.float32), np.asarray(codes)
    if x.ndim != 2 or codes.ndim != 2 or x.shape[1] != codes.shape[1]:
        raise InvalidInput(
            f"x has shape {x.shape} and the codes {codes.shape}; (m, k) and (n, k) are needed."
        )
    if codes.dtype != code_dtype(fmt.bits):
        raise InvalidInput(
            f"The codes are {codes.dtype}; '{fmt.name}' has {np.dtype(code_dtype(fmt.bits))}."
        )
    if fmt.code_count <= np.iinfo(codes.dtype).max and codes.max(initial=0) >= fmt.code_count:
        raise InvalidInput(f"'{fmt.name}' has codes 0 to {fmt.code_count - 1}; some are outside.")
    table = fmt.values.astype(np.float32)
    codes = np.ascontiguousarray(codes)
    out = np.empty((len(x), len(codes)), np.float32)
    kernels, shifted = _kernels(), fmt.name == "bf16"
    if kernels is not None and len(x) <= FEW_ROWS:
        kernels.few_rows(shifted)(x, codes, table, out)
        return out
    rows = max(1, TILE_BYTES // 4 // max(codes.shape[1], 1))
    buffer = np.empty((rows, codes.shape[1]), np.float32)
    for first in range(0, len(codes), rows):
        part = codes[first : first + rows]
        tile = buffer[: len(part)]
        if kernels is not None:
            kernels.expansion(shifted)(part.reshape(-1), table, tile.reshape(-1))
        else:
            np.take(table, part, out=tile)
        np.matmul(x, tile.T, out=out[:, first : first + rows])
    return out


@cache
def _kernels() -> Any:
    try:
        from . import _expand
    except (ImportError, RuntimeError):
        return None
    return _expand
