"""`round_to`, `encode`, `decode`: arrays in, values or code words out, any format."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..errors import InvalidInput
from . import _floatround, arrays, tensors
from .formats import Blocks, FloatFormat, load
from .policies import below_half, for_negative, resolve

_EXACT_IN = (np.float32, np.float64)


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
        _holds(fmt, tensors.dtype_name(x))
        return tensors.round_to(x, fmt, policy, seed=seed, random=random, out=out)
    return round_on_host(x, fmt, policy, seed, random, out, threads)


def round_on_host(x, fmt, policy, seed: int, random=None, out=None, threads: int = 1) -> Any:
    """`round_to` of an array in host memory, its format and policy resolved."""
    view = arrays.view(x)
    if hasattr(fmt, "round_blocks"):
        source = view.floats()
        into = None if out is None else view.target(out, source)
        workers = _workers(threads)
        result = fmt.round_blocks(source, policy, seed=seed, out=into, threads=workers)
        return view.finish(result.reshape(-1), out)
    _holds(fmt, view.dtype_name)
    flat = view.floats().reshape(-1)
    words = _words(random, flat.size)
    source = _as_library(_through_float32(flat, policy), fmt, policy)
    target = view.target(out, source)
    other = for_negative(policy)
    if other is not None:
        mirrored, negative = np.empty_like(target), np.signbit(source)
        _dispatch(source, fmt, other, False, mirrored, seed, words, threads)
    _dispatch(source, fmt, policy, False, target, seed, words, threads)
    if other is not None:
        np.copyto(target, mirrored, where=negative)
    return view.finish(target, out)


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
    if hasattr(fmt, "round_blocks"):
        raise InvalidInput(
            f"'{fmt.name}' stores scales beside its codes. Use isoflop.numerics.encode_blocks."
        )
    policy = resolve(rounding, overflow, nan, random_bits, like)
    if tensors.takes(x):
        return tensors.encode(x, fmt, policy, seed=seed, random=random)
    return encode_on_host(x, fmt, policy, seed, random, threads)


def encode_on_host(x, fmt, policy, seed: int, random=None, threads: int = 1) -> Any:
    """`encode` of an array in host memory, its format and policy resolved."""
    view = arrays.view(x)
    flat = _as_library(_through_float32(view.floats().reshape(-1), policy), fmt, policy)
    codes = np.empty(flat.size, dtype=code_dtype(fmt.bits))
    words = _words(random, flat.size)
    _dispatch(flat, fmt, policy, True, codes, seed, words, threads)
    return arrays.of_kind(codes.reshape(view.shape), view.kind)


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
    if not hasattr(fmt, "encode_blocks"):
        raise InvalidInput(f"'{fmt.name}' has no block scales. Use isoflop.encode.")
    policy = resolve(rounding, None, None, random_bits, like)
    if tensors.takes(x):
        return tensors.encode_blocks(x, fmt, policy, seed=seed)
    return fmt.encode_blocks(arrays.view(x).floats(), policy, seed=seed)


def decode(codes: Any, format: Any, *, dtype: Any = np.float32) -> Any:
    """Values of an array of code words, as `dtype` (float32 unless told), of the codes' kind."""
    fmt = load(format) if isinstance(format, str) else format
    if tensors.takes(codes):
        return tensors.decode(codes, fmt, dtype)
    return arrays.of_kind(decode_on_host(codes, fmt, dtype), arrays.kind_of(codes))


def decode_on_host(codes: Any, fmt: Any, dtype: Any) -> np.ndarray:
    """`decode` in host memory, as NumPy."""
    words = np.asarray(codes)
    if words.dtype.kind not in "ui":
        raise InvalidInput(f"Codes are {words.dtype}; integers are needed.")
    if words.size and (int(words.min()) < 0 or int(words.max()) >= fmt.code_count):
        raise InvalidInput(f"'{fmt.name}' has codes 0 to {fmt.code_count - 1}; some are outside.")
    if fmt.bits <= 16 and words.size >= fmt.code_count:
        return fmt.values.astype(dtype)[words]
    return fmt.decode(words).astype(dtype)


def code_dtype(bits: int) -> type:
    """The smallest unsigned integer type of at least `bits` bits."""
    for width, dtype in ((8, np.uint8), (16, np.uint16), (32, np.uint32)):
        if bits <= width:
            return dtype
    return np.uint64


def _words(random: Any, size: int) -> np.ndarray | None:
    if random is None:
        return None
    words = np.ascontiguousarray(random).reshape(-1)
    if words.dtype != np.uint32 or words.size != size:
        raise InvalidInput(
            f"random has {words.size} words of {words.dtype}; {size} of uint32 are needed."
        )
    return words


def _through_float32(flat: np.ndarray, policy) -> np.ndarray:
    if policy.double_through_float32 and flat.dtype == np.float64:
        with np.errstate(over="ignore"):
            return flat.astype(np.float32).astype(np.float64)
    return flat


def _as_library(flat: np.ndarray, fmt, policy) -> np.ndarray:
    """The one value per sign that adding one half in float32 sends up made a tie."""
    if not policy.float32_steps or policy.rounding != "nearest_away":
        return flat
    low = flat.dtype.type(below_half(fmt.min_positive))
    half = flat.dtype.type(fmt.min_positive / 2)
    return np.where(np.abs(flat) == low, np.copysign(half, flat), flat)


def _holds(fmt, dtype_name: str) -> None:
    if not isinstance(fmt, FloatFormat):
        return
    mantissa, low, high = arrays.RANGES[dtype_name]
    if (
        fmt.mantissa_bits > mantissa
        or fmt.max_exponent > high
        or fmt.min_exponent - (fmt.mantissa_bits if fmt.subnormals else 0) < low
    ):
        raise InvalidInput(
            f"{dtype_name} cannot hold every value of '{fmt.name}' "
            f"({fmt.min_positive:g} to {fmt.max:g}). Convert the input to a wider type first."
        )


def _dispatch(flat, fmt, policy, codes: bool, out, seed: int, words, threads: int) -> None:
    workers = _workers(threads)
    if isinstance(fmt, FloatFormat):
        _floatround.run(flat, fmt, policy, codes, out, seed, words, workers)
        return
    if policy.rounding == "stochastic" and words is None:
        words = _floatround._random_words(None, seed, 0, flat.size)
    fmt.round_into(flat, policy, codes, out, words)


def _workers(threads: int) -> int:
    return threads or os.cpu_count() or 1
