"""Softmax attention: prompts as tiles in waves, decoding as split caches in waves."""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike

from ..features import Array
from .shape import DeviceShape

QUERY_TILE = 128.0
KEY_BLOCK = 128.0
PACKED_ROWS = 64.0
"""Query heads that share a KV head are packed into matrix tiles of this many rows."""
DECODE_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
SM_STREAM_BYTES_PER_S = 1e10
"""Scale of the per-unit rate at which a prompt kernel moves queries and outputs."""


@frozen(kw_only=True)
class PrefillParameters:
    """Fitted parameters of prompt attention kernels.

    Attributes
    ----------
    fixed : float
        Seconds of an empty call (launch, scheduling metadata, cache indexing).
    compute : float
        Share of the dense rate at head width 128.
    head_exponent : float
        Rate grows as (head width / 128) to this power, up to 15% above.
    stream : float
        Bytes of queries, outputs and keys per second and unit, over 1e10.
    join : float
        Exponent of the p-norm of math and memory.
    throttle : float
        Slow-down per decade of duration beyond 0.1 ms.
    tail : float
        Waves lost to uneven tiles.
    tile : float
        Seconds of prologue and epilogue per wave of tiles.
    window_slack : float
        Key blocks computed beyond a sliding window's band.
    """

    fixed: float
    compute: float
    head_exponent: float
    stream: float
    join: float
    throttle: float
    tail: float
    tile: float = 0.0
    window_slack: float = 0.0


@frozen(kw_only=True)
class DecodeParameters:
    """Fitted parameters of decoding attention kernels.

    Attributes
    ----------
    fixed : float
        Seconds of an empty call.
    wave : float
        Seconds of prologue and epilogue per wave of blocks.
    unit_speed : float
        Most bandwidth one unit can draw, over its even share.
    memory : float
        Share of peak bandwidth of a large transfer.
    join : float
        Exponent of the p-norm of block and memory time.
    reduce : float
        Seconds to combine split results.
    residency, cache_speed : float
        As for GEMMs; only repeated benchmarks see it.
    compute : float
        Share of the dense rate of packed score and value products.
    transpose : float
        Seconds of the copies that regroup query heads where a kernel packs them itself.
    window_slack : float
        Key blocks read beyond a sliding window.
    packs_windows : bool
        Whether query heads are packed under a sliding window too.
    """

    fixed: float
    wave: float
    unit_speed: float
    memory: float
    join: float
    reduce: float
    residency: float
    cache_speed: float
    compute: float
    transpose: float
    window_slack: float
    packs_windows: bool = True


def _floats(*values: ArrayLike) -> list[Array]:
    return list(np.broadcast_arrays(*(np.asarray(v, float) for v in values)))


def tiled_pairs(
    queries: ArrayLike,
    prior: ArrayLike,
    window: ArrayLike = 0.0,
    causal: bool = True,
    slack: float = 0.0,
) -> tuple[Array, Array, Array]:
    """Query-key pairs as whole tiles compute them, the longest tile's keys, and tiles.

    The triangle is covered by rows of tiles 128 queries high; the i-th sees prior + 128 i keys,
    or a window's worth and `slack` key blocks more.
    """
    q, c, w = _floats(queries, prior, window)
    tiles = np.ceil(q / QUERY_TILE)
    if not causal:
        return q * np.maximum(q, 1.0), q, tiles
    band = np.where(w > 0, w + QUERY_TILE + slack * KEY_BLOCK, np.inf)
    inside = np.clip(np.floor((band - c) / QUERY_TILE), 0.0, tiles)
    rising = inside * c + QUERY_TILE * inside * (inside + 1.0) / 2.0
    flat = (tiles - inside) * np.where(w > 0, band, 0.0)
    longest = np.minimum(c + tiles * QUERY_TILE, band)
    return QUERY_TILE * (rising + flat), longest, tiles


def prefill_time_s(
    p: PrefillParameters,
    device: DeviceShape,
    *,
    batch: ArrayLike,
    queries: ArrayLike,
    prior: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike,
    v_head_dim: ArrayLike = 0.0,
    window: ArrayLike = 0.0,
    causal: bool = True,
    kv_bytes_per_value: float = 2.0,
) -> Array:
    """Seconds of attention over `batch` chunks of `queries` tokens after `prior` cached ones.

    Chunks of less than a tile pack the query heads that share a KV head into one tile.
    """
    b, q, c, h, kv, d, v, w = _floats(
        batch, queries, prior, heads, kv_heads, head_dim, v_head_dim, window
    )
    width = d + np.where(v > 0, v, d)
    pairs, longest, rows = tiled_pairs(q, c, w, causal, p.window_slack)
    packed = np.ceil(q * h / kv / QUERY_TILE) * kv
    share = np.where((q <= QUERY_TILE) & (packed < h * rows), packed / (h * np.maximum(rows, 1)), 1)
    rate = device.bf16_flop_per_s * p.compute
    rate = rate * np.minimum((width / 256.0) ** p.head_exponent, 1.15)
    tiles = b * h * rows * share
    ideal = 2.0 * width * pairs * b * h * share / rate
    waves = np.maximum(tiles / device.units, 1.0)
    critical = 2.0 * width * QUERY_TILE * longest / (rate / device.units)
    math = np.maximum(ideal * (1.0 + p.tail / waves), critical)
    math = math + np.ceil(tiles / device.units) * p.tile
    keys = np.where(w > 0, np.minimum(c, w) + q, c + q)
    moved = b * (2.0 * q * h * width + keys * kv * width * kv_bytes_per_value)
    streamed = p.stream * device.units * SM_STREAM_BYTES_PER_S
    speed = min(streamed, 0.9 * device.bandwidth_bytes_per_s)
    time = (math**p.join + (moved / speed) ** p.join) ** (1.0 / p.join)
    decades = np.clip(np.log10(np.maximum(ideal, 1e-30) / 1e-4), 0.0, 2.0)
    time = time * (1.0 + p.throttle * decades) + p.fixed
    return np.where((b > 0) & (q > 0), time, 0.0)


def decode_time_s(
    p: DecodeParameters,
    device: DeviceShape,
    *,
    batch: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: ArrayLike,
    v_head_dim: ArrayLike = 0.0,
    window: ArrayLike = 0.0,
    kv_bytes_per_value: float = 2.0,
    streamed: bool = True,
) -> Array:
    """Seconds of one query per sequence against `context` cached tokens each.

    Each (sequence, KV head) is a unit of work; the kernel splits its keys until the units fill
    the device, and the fastest split is taken.
    """
    b, ctx, h, kv, d, v, w = _floats(
        batch, context, heads, kv_heads, head_dim, v_head_dim, window
    )  # fmt: skip
    v = np.where(v > 0, v, d)
    keys = np.where(
        w > 0, np.minimum(ctx, np.ceil(w / KEY_BLOCK + p.window_slack) * KEY_BLOCK), ctx
    )
    per_key = (d + v) * kv_bytes_per_value
    moved = b * kv * keys * per_key + 2.0 * b * h * (d + v)
    hit = np.zeros(b.shape) if streamed else device.resident(moved, p.residency)
    bandwidth = device.bandwidth_bytes_per_s
    memory = moved * ((1 - hit) / (bandwidth * p.memory) + hit / (bandwidth * p.cache_speed))
    unpacked = (w > 0) & (not p.packs_windows)
    groups = np.where(unpacked, h, kv)
    rows = np.ceil(h / groups / PACKED_ROWS) * PACKED_ROWS
    blocks_of_keys = np.maximum(np.ceil(keys / KEY_BLOCK), 1.0)
    unit_bandwidth = bandwidth * p.unit_speed / device.units
    unit_rate = device.bf16_flop_per_s * p.compute / device.units
    per_block = KEY_BLOCK * np.maximum(per_key / unit_bandwidth, 2.0 * (d + v) * rows / unit_rate)
    best = np.full(b.shape, np.inf)
    for splits in DECODE_SPLITS:
        if splits > 1 and not np.any(blocks_of_keys >= splits):
            break
        waves = np.ceil(np.maximum(b * groups * splits, 1.0) / device.units)
        block = waves * (p.wave + np.ceil(blocks_of_keys / splits) * per_block)
        time = (block**p.join + memory**p.join) ** (1.0 / p.join)
        if splits > 1:
            time = np.where(blocks_of_keys >= splits, time + p.reduce, np.inf)
        best = np.minimum(best, time)
    regrouped = (b > 1) & (kv > 1) & (h > kv)
    return np.where(b > 0, best + p.fixed + p.transpose * regrouped, 0.0)
