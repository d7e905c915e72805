"""Matrix products: tiles in waves over the compute units, against bytes from memory.

For every tile shape and split of the inner dimension, the product takes

    waves = ceil(ceil(m / tm) ceil(n / tn) splits / units)
    tile  = max(2 tm tn k' / (rate / units x e_c), (tm + tn) k' bytes / (cache bandwidth / units))
    math  = waves (tile + wave_s) + partial sums

and the library picks the fastest. Joined with the bytes over achieved memory bandwidth by a
p-norm (the two overlap, imperfectly), plus a fixed time and a ramp of small transfers. Rates fall
at long kernels, where clocks throttle at the power limit.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike

from ..features import Array
from .shape import DeviceShape

TILES = ((16, 64), (32, 64), (64, 64), (64, 128), (128, 64), (128, 128), (64, 256), (256, 64),
         (128, 256), (256, 128))  # fmt: skip
SPLITS = (1, 2, 4, 8, 16)
MIN_SPLIT_K = 256
K_STEP = 64
RAMP_BYTES = 5e6
"""Transfer size over which memory latency amortises."""
THROTTLE_FROM_S = 1e-4
"""Ideal duration at which clocks start to fall towards their sustained value."""


@frozen(kw_only=True)
class GemmParameters:
    """Fitted parameters of GEMM kernels.

    Attributes
    ----------
    compute : float
        Share of the dense rate a full tile reaches.
    memory : float
        Share of peak memory bandwidth of a large transfer.
    fixed : float
        Seconds of an empty product.
    join : float
        Exponent of the p-norm of math and memory time; larger is better overlap.
    wave : float
        Seconds of prologue and epilogue per wave.
    cache_speed : float
        Last-level cache bandwidth over memory bandwidth.
    ramp : float
        Extra seconds of a large transfer over a tiny one.
    throttle : float
        Slow-down per decade of duration beyond 0.1 ms.
    residency : float
        Share of the last-level cache that keeps operands between repetitions.
    quantize : float
        Seconds per activation value where the benchmark quantises them itself; engines fuse it
        into the norm before.
    """

    compute: float
    memory: float
    fixed: float
    join: float
    wave: float
    cache_speed: float
    ramp: float
    throttle: float
    residency: float
    quantize: float = 0.0


def gemm_time_s(
    p: GemmParameters,
    device: DeviceShape,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    rate_flop_per_s: float,
    weight_bytes_per_value: float = 2.0,
    activation_bytes_per_value: float = 2.0,
    output_bytes_per_value: float = 2.0,
    streamed: bool = True,
) -> Array:
    """Seconds of (m x k) by (k x n), arrays broadcasting; zero where m is zero.

    Parameters
    ----------
    m, n, k : array
        Rows, outputs and inner dimension, in values.
    rate_flop_per_s : float
        Dense rate of the operand format.
    streamed : bool
        True for an engine, whose weights come from memory at every step; False for a benchmark
        that repeats the same product and may find them in cache.
    """
    m, n, k = np.broadcast_arrays(*(np.asarray(v, float) for v in (m, n, k)))
    cache = p.cache_speed * device.bandwidth_bytes_per_s
    moved = (
        m * k * activation_bytes_per_value + n * k * weight_bytes_per_value
        + m * n * output_bytes_per_value
    )  # fmt: skip
    hit = np.zeros(m.shape) if streamed else device.resident(moved, p.residency)
    memory = moved * ((1 - hit) / (device.bandwidth_bytes_per_s * p.memory) + hit / cache)
    rate, cache = rate_flop_per_s * p.compute / device.units, cache / device.units
    best = np.full(m.shape, np.inf)
    for tm, tn in TILES:
        tiles = np.ceil(m / tm) * np.ceil(n / tn)
        per_k = max(
            2.0 * tm * tn / rate,
            (tm * activation_bytes_per_value + tn * weight_bytes_per_value) / cache,
        )
        for splits in SPLITS:
            if splits > 1 and not np.any(k >= splits * MIN_SPLIT_K):
                break
            depth = np.ceil(k / splits / K_STEP) * K_STEP
            blocks = np.maximum(tiles * splits, 1.0)
            math = np.ceil(blocks / device.units) * (depth * per_k + p.wave)
            if splits > 1:
                math = math + 8.0 * m * n * splits / (cache * device.units) + 1e-6
                math = np.where(k >= splits * MIN_SPLIT_K, math, np.inf)
            # Few blocks keep too few loads in flight to fill the memory pipe.
            filled = np.sqrt(np.minimum(blocks, device.units) / device.units)
            best = np.minimum(best, (math**p.join + (memory / filled) ** p.join) ** (1 / p.join))
    best = best + p.ramp * -np.expm1(-moved / RAMP_BYTES)
    ideal = 2.0 * m * n * k / rate_flop_per_s
    decades = np.clip(np.log10(np.maximum(ideal, 1e-30) / THROTTLE_FROM_S), 0.0, 2.0)
    return np.where(m > 0, best * (1.0 + p.throttle * decades) + p.fixed, 0.0)
