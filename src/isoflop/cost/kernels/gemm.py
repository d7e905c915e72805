"""Matrix products: tiles in waves over the compute units, against bytes from memory.

A library cuts the output into tm x tn tiles and, where that leaves units idle, the inner dimension
into `splits`. Each candidate takes

    waves = ceil(ceil(m / tm) ceil(n / tn) splits / units)
    step  = max(2 tm tn / (rate / units x compute), (tm b_a + tn b_w) / (load x clock))  per k,
            a p-norm where loads do not hide, with less to load where all units do (`crowd`)
    math  = waves (k / splits x step + tm tn b_out / (store x clock)) + partial sums

and moves the operands and results over achieved memory bandwidth, plus what the tiles of each
wave read again when operands outgrow the last-level cache. Libraries with a search take the
fastest candidate; libraries with a fixed rule (`ladder`) take the tile of the row count. Math and
memory join by a p-norm (they overlap, imperfectly); a fixed time is added; rates fall at long
kernels, where clocks throttle at the power limit.

References
----------
NVIDIA, "Matrix Multiplication Background User's Guide" (tile and wave quantisation).
Osama et al., "Stream-K: Work-centric Parallel Decomposition for Dense Matrix-Matrix
Multiplication on the GPU", 2023 (split inner dimension, partial sums).
"""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike

from ..features import Array
from .shape import DeviceShape

TILES = (
    (16, 32), (16, 64), (16, 128), (32, 32), (32, 64), (32, 128), (64, 32), (64, 64), (64, 128),
    (64, 256), (128, 32), (128, 64), (128, 128), (128, 256), (256, 64), (256, 128),
)  # fmt: skip
"""Tiles a searching library chooses from: rows (m) by columns (n)."""
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
MIN_SPLIT_K = 256
"""Shallowest slice of the inner dimension worth a split."""
K_STEP = 64
"""Values of the inner dimension per pipeline stage."""
PARTIAL_BYTES = 8.0
"""Bytes per output and split: one 32-bit partial sum written and read."""
THROTTLE_FROM_S = 1e-4
"""Ideal duration at which clocks start to fall towards their sustained value."""
THROTTLE_DECADES = 2.0
"""Decades of duration after which they have."""
REPETITION_COPIES = 6
"""Weight copies the benchmark behind the fit cycles through, so that they leave small caches."""
RESIDENCY_SHARPNESS = 6.0
"""Exponent of the hit rate's fall as a working set outgrows the cache."""
CHUNK = 1 << 16
"""Shape-candidate pairs evaluated at a time, half a megabyte an array, to stay in processor cache:
2^19 take twice as long."""
COMPLETE = 100.0
"""Exponent of a p-norm from which on the shorter of two times is hidden."""


@frozen(kw_only=True)
class GemmParameters:
    """Fitted parameters of GEMM kernels.

    Attributes
    ----------
    compute : float
        Share of the dense rate a full tile reaches.
    memory : float
        Share of peak memory bandwidth of a large transfer.
    load : float
        Bytes per clock at which one unit loads operands from the last-level cache.
    crowd : float
        The same where all units load at once; at least `load` where the cache keeps up with them.
    overlap : float
        Exponent of the p-norm of a step's products and loads; large where loads hide.
    store : float
        Bytes per clock at which one unit converts and stores a finished tile.
    fixed : float
        Seconds of an empty product.
    split : float
        Clocks to synchronise and reduce a split inner dimension.
    join : float
        Exponent of the p-norm of math and memory time; larger is better overlap.
    fill : float
        Exponent of the loss of memory bandwidth when few units have work.
    patch : float
        Side of the square of tiles a wave covers, over the square root of the units.
    throttle : float
        Slow-down per decade of duration beyond 0.1 ms.
    residency : float
        Share of the last-level cache that keeps data from one kernel to the next.
    ladder : tuple of (rows, columns, tm, tn)
        Fixed rule: the tile of the first entry with at least so many rows and columns, else of the
        last; empty for libraries that search and split.
    quantize_row : float
        Clocks per row and unit of a kernel that quantises activations to 8 bits.
    quantize_fixed : float
        Seconds of such a kernel on an empty matrix.
    """

    compute: float
    memory: float
    load: float
    store: float
    fixed: float
    split: float
    join: float
    fill: float
    patch: float
    throttle: float
    residency: float
    ladder: tuple[tuple[int, ...], ...] = ()
    crowd: float = 1e3
    overlap: float = COMPLETE
    quantize_row: float = 0.0
    quantize_fixed: float = 0.0


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
        that cycles through a few copies of the same weights and may find them in cache.
    """
    shape = np.broadcast_shapes(*(np.shape(v) for v in (m, n, k)))
    rows, columns, depth = (
        np.broadcast_to(np.asarray(v, float), shape).reshape(-1) for v in (m, n, k)
    )
    out = np.empty(rows.size)
    bytes_per = (weight_bytes_per_value, activation_bytes_per_value, output_bytes_per_value)
    step = max(1, CHUNK // (len(TILES) * len(SPLITS)))
    for start in range(0, rows.size, step):
        part = slice(start, start + step)
        out[part] = _flat(
            p, device, rows[part], columns[part], depth[part], rate_flop_per_s, bytes_per, streamed
        )
    return out.reshape(shape)


def quantize_time_s(
    p: GemmParameters, device: DeviceShape, m: ArrayLike, k: ArrayLike, *, streamed: bool = False
) -> Array:
    """Seconds to quantise m x k 16-bit activations to 8 bits in a kernel of its own.

    Benchmarks of 8-bit products time it with the product; engines fuse it into the norm before.
    """
    m, k = np.broadcast_arrays(np.asarray(m, float), np.asarray(k, float))
    moved = 3.0 * m * k
    hit = 0.0 if streamed else _hit(moved, p, device)
    speed = device.bandwidth_bytes_per_s * p.memory
    seconds = moved * ((1 - hit) / speed + hit / _cache_speed(p, device))
    rows = m * p.quantize_row / (device.units * device.clock_hz)
    return np.where(m > 0, seconds + rows + p.quantize_fixed, 0.0)


def _cache_speed(p: GemmParameters, device: DeviceShape) -> float:
    """Bytes per second of the last-level cache: what all units load together."""
    load = min(p.load, p.crowd)
    return max(load * device.units * device.clock_hz, device.bandwidth_bytes_per_s)


def _joined(a: Array, b: Array, exponent: float) -> Array:
    """The p-norm of two times; their maximum at a large exponent."""
    more, less = np.maximum(a, b), np.minimum(a, b)
    if exponent >= COMPLETE:
        return more
    return more * (1.0 + (less / np.maximum(more, 1e-30)) ** exponent) ** (1.0 / exponent)


def _hit(working_set: Array, p: GemmParameters, device: DeviceShape) -> Array:
    """Share of accesses that find a working set of so many bytes still in cache."""
    usable = p.residency * device.cache_bytes
    if usable <= 0:
        return np.zeros(np.shape(working_set))
    return 1.0 / (1.0 + (working_set / usable) ** RESIDENCY_SHARPNESS)


def _candidates(p: GemmParameters, m: Array, n: Array) -> tuple[Array, Array, Array]:
    """Tile rows, tile columns and splits, axes (shape, tile, split): all, or one tile per shape."""
    if p.ladder:
        table = np.array(p.ladder, float)
        fits = (m[:, None] <= table[:, 0]) & (n[:, None] <= table[:, 1])
        fits[:, -1] = True
        pick = table[np.argmax(fits, axis=1)]
        return pick[:, 2, None, None], pick[:, 3, None, None], np.ones((1, 1, 1))
    tiles = np.array(TILES, float)
    return tiles[None, :, :1], tiles[None, :, 1:], np.array(SPLITS, float)[None, None, :]


def _flat(
    p: GemmParameters, device: DeviceShape, m: Array, n: Array, k: Array, rate: float,
    bytes_per: tuple[float, float, float], streamed: bool,
) -> Array:  # fmt: skip
    """`gemm_time_s` of one-dimensional arrays."""
    tm, tn, splits = _candidates(p, m, n)
    weight, activation, output = bytes_per
    weights, inputs, outputs = n * k * weight, m * k * activation, m * n * output
    near = weights + inputs + outputs
    # The producer of the inputs and the consumer of the outputs run next to the product.
    hit = _hit(near, p, device)
    kept = (
        np.zeros(m.shape) if streamed else _hit(near + (REPETITION_COPIES - 1) * weights, p, device)
    )
    speed, cache = device.bandwidth_bytes_per_s * p.memory, _cache_speed(p, device)
    cached = weights * kept + (inputs + outputs) * hit
    memory = (near - cached) / speed + cached / cache

    m, n, k = (v[:, None, None] for v in (m, n, k))
    blocks = np.ceil(m / tm) * np.ceil(n / tn) * splits
    drawn: Array | float = p.load
    if p.crowd < p.load:  # few tiles draw what a unit can each, all units what the cache gives
        drawn = np.minimum(p.load, p.crowd * device.units / np.clip(blocks, 1.0, device.units))
    multiply = 2.0 * tm * tn / (rate * device.reached(p.compute) / device.units)
    fetch = (tm * activation + tn * weight) / (drawn * device.clock_hz)
    step = _joined(multiply, fetch, p.overlap)
    slices = np.ceil(k / splits / K_STEP) * K_STEP
    finish = tm * tn * (output / (p.store * device.clock_hz))
    math = np.ceil(blocks / device.units) * (slices * step + finish)
    parts = p.split / device.clock_hz + splits * m * n * (PARTIAL_BYTES / cache)
    math = math + np.where(splits > 1, parts, 0.0)
    side = p.patch * np.sqrt(device.units)
    reread = m * n * k * (activation / (tn * side) + weight / (tm * side))
    held, missed = (weights + inputs)[:, None, None], (1.0 - hit)[:, None, None]
    reread = np.maximum(reread - held, 0.0) * missed / speed
    busy = np.maximum(blocks, 1.0) / device.units
    filled = np.power(busy, p.fill, out=np.ones(busy.shape), where=busy < 1.0)
    memory = (memory[:, None, None] + reread) / filled
    allowed = (splits == 1) | (k >= splits * MIN_SPLIT_K)
    total = np.where(allowed, math + memory, np.inf).reshape(len(m), -1)
    row, best = np.arange(len(m)), np.argmin(total, axis=1)
    math, memory = (v.reshape(total.shape)[row, best] for v in (math, memory))
    joined = _joined(math, memory, p.join)
    ideal = 2.0 * (m * n * k)[:, 0, 0] / rate
    decades = np.log10(np.maximum(ideal, 1e-30) / THROTTLE_FROM_S)
    slow = 1.0 + p.throttle * np.clip(decades, 0.0, THROTTLE_DECADES)
    return np.where(m[:, 0, 0] > 0, joined * slow + p.fixed, 0.0)
