"""Scalar formats on arrays in host memory: values, code words and back.

A float format goes to `_floatround`, which picks a compiled or a NumPy body; every other record
rounds by its own `round_into`.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..errors import InvalidInput
from . import _floatround, arrays
from .formats import FloatFormat, Scalar
from .policies import RoundingPolicy, below_half, for_negative


def round_to(
    x: Any, fmt: Scalar, policy: RoundingPolicy, seed: int, random=None, out=None, threads: int = 1
) -> Any:
    """`isoflop.numerics.round_to` of an array in host memory to a scalar format."""
    view = arrays.view(x)
    holds(fmt, view.dtype_name)
    flat = view.floats().reshape(-1)
    target = view.target(out, flat)
    _round_into(flat, target, fmt, policy, seed, _words(random, flat.size), threads)
    return view.finish(target, out)


def round_values(x: np.ndarray, fmt: Scalar, policy: RoundingPolicy, seed: int = 0) -> np.ndarray:
    """Values of a float32 or float64 array rounded to a scalar format, its shape and type."""
    flat = np.ascontiguousarray(x).reshape(-1)
    target = np.empty_like(flat)
    _round_into(flat, target, fmt, policy, seed, None, 1)
    return target.reshape(x.shape)


def _round_into(flat, target, fmt, policy, seed: int, words, threads: int) -> None:
    source = _as_library(_through_float32(flat, policy), fmt, policy)
    other = for_negative(policy)
    if other is None:
        _dispatch(source, fmt, policy, False, target, seed, words, threads)
        return
    mirrored, negative = np.empty_like(target), np.signbit(source)
    _dispatch(source, fmt, other, False, mirrored, seed, words, threads)
    _dispatch(source, fmt, policy, False, target, seed, words, threads)
    np.copyto(target, mirrored, where=negative)


def encode(
    x: Any, fmt: Scalar, policy: RoundingPolicy, seed: int, random=None, threads: int = 1
) -> Any:
    """`isoflop.numerics.encode` of an array in host memory."""
    view = arrays.view(x)
    flat = _as_library(_through_float32(view.floats().reshape(-1), policy), fmt, policy)
    codes = np.empty(flat.size, dtype=code_dtype(fmt.bits))
    words = _words(random, flat.size)
    _dispatch(flat, fmt, policy, True, codes, seed, words, threads)
    return arrays.of_kind(codes.reshape(view.shape), view.kind)


def decode(codes: Any, fmt: Any, dtype: Any) -> np.ndarray:
    """`isoflop.numerics.decode` of codes in host memory, as NumPy."""
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


def holds(fmt: Scalar, dtype_name: str) -> None:
    """Refuse float formats with values that a type of array cannot hold."""
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
    workers = worker_count(threads)
    if isinstance(fmt, FloatFormat):
        _floatround.run(flat, fmt, policy, codes, out, seed, words, workers)
        return
    if policy.rounding == "stochastic" and words is None:
        words = _floatround.random_words(None, seed, 0, flat.size)
    fmt.round_into(flat, policy, codes, out, words)


def worker_count(threads: int) -> int:
    """Threads to use: as many as asked for, one per core for 0."""
    return threads or os.cpu_count() or 1
