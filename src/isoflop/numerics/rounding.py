"""`round_to`, `encode`, `decode`: arrays in, values or code words out, any format."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidInput
from . import _host, arrays, blocks, tensors
from .blocks import Blocks
from .formats import BlockFormat, load
from .policies import resolve


def round_to(
    x: Any,
    format: Any,
    *,
    rounding: str | None = None,
    overflow: str | None = None,
    nan: str | None = None,
    random_bits: int | None = None,
    seed: int = 0,
    random: Any = None,
    like: str | None = None,
    out: Any = None,
    threads: int = 1,
) -> Any:
    """Round each element of `x` once to the nearest (or chosen) value of a number format.

    Parameters
    ----------
    x : array of float16, bfloat16, float32 or float64, any shape
        NumPy, PyTorch or JAX; the result is of the same kind, shape, dtype and device. The dtype
        must be able to hold every value of the format. A tensor on another device than the CPU
        is rounded there (see `isoflop.numerics.tensors`).
    format : str or format record
        For example "fp8-e4m3", "bf16", "e3m4", "posit16-es1", "mxfp4", "nvfp4".
    rounding, overflow, nan, random_bits
        See `isoflop.numerics.policies`; defaults nearest_even, ieee, format, 31.
    seed : int
        Of stochastic rounding. The random word of an element depends on the seed and the
        element's flat position only, so results do not depend on `threads`.
    random : array of uint32, same number of elements as `x`, optional
        The caller's own random words; the top `random_bits` of each are used.
    like : {"torch-2.13", "ml_dtypes", "microxcaling", "pychop"}, optional
        Start from another library's conventions.
    out : array like `x`, optional
        Written to and returned. It may be `x`.
    threads : int
        0 means one per core.

    Raises
    ------
    UnknownName, InvalidInput
    """
    fmt = load(format) if isinstance(format, str) else format
    policy = resolve(rounding, overflow, nan, random_bits, like)
    if tensors.takes(x):
        if not isinstance(fmt, BlockFormat):
            _host.holds(fmt, tensors.dtype_name(x))
        return tensors.round_to(x, fmt, policy, seed=seed, random=random, out=out)
    if not isinstance(fmt, BlockFormat):
        return _host.round_to(x, fmt, policy, seed, random, out, threads)
    view = arrays.view(x)
    source = view.floats()
    into = None if out is None else view.target(out, source)
    workers = _host.worker_count(threads)
    result = blocks.round_blocks(fmt, source, policy, seed=seed, out=into, threads=workers)
    return view.finish(result.reshape(-1), out)


def encode(
    x: Any,
    format: Any,
    *,
    rounding: str | None = None,
    overflow: str | None = None,
    nan: str | None = None,
    random_bits: int | None = None,
    seed: int = 0,
    random: Any = None,
    like: str | None = None,
    threads: int = 1,
) -> Any:
    """Code words of `x` rounded to a scalar format: uint8, uint16, uint32 or uint64, `x`'s shape.

    An array of `x`'s kind on its device; parameters as in `round_to`. Pack codes of 1 to 8 bits
    with `isoflop.numerics.pack`; block formats have `isoflop.numerics.encode_blocks`.
    """
    fmt = load(format) if isinstance(format, str) else format
    if isinstance(fmt, BlockFormat):
        raise InvalidInput(
            f"'{fmt.name}' stores scales beside its codes. Use isoflop.numerics.encode_blocks."
        )
    policy = resolve(rounding, overflow, nan, random_bits, like)
    if tensors.takes(x):
        return tensors.encode(x, fmt, policy, seed=seed, random=random)
    return _host.encode(x, fmt, policy, seed, random, threads)


def encode_blocks(
    x: Any,
    format: Any,
    *,
    rounding: str | None = None,
    random_bits: int | None = None,
    seed: int = 0,
    like: str | None = None,
) -> Blocks:
    """Codes, scales, zero points and tensor scale of `x` in a block format (along the last axis).

    A tensor on another device than the CPU is encoded there and its codes and scales stay there.
    """
    fmt = load(format) if isinstance(format, str) else format
    if not isinstance(fmt, BlockFormat):
        raise InvalidInput(f"'{fmt.name}' has no block scales. Use isoflop.encode.")
    policy = resolve(rounding, None, None, random_bits, like)
    if tensors.takes(x):
        return tensors.encode_blocks(x, fmt, policy, seed=seed)
    return blocks.encode_blocks(fmt, arrays.view(x).floats(), policy, seed=seed)


def decode(codes: Any, format: Any, *, dtype: Any = np.float32) -> Any:
    """Values of an array of code words, as `dtype` (float32 unless told), of the codes' kind."""
    fmt = load(format) if isinstance(format, str) else format
    if tensors.takes(codes):
        return tensors.decode(codes, fmt, dtype)
    return arrays.of_kind(_host.decode(codes, fmt, dtype), arrays.kind_of(codes))
