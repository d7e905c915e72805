"""Softmax attention: prompts as tiles in waves, decoding as split caches in waves.

Tiles, packing and splits are the library's own (`flash.py`); latencies are in clocks, loads in
bytes per clock and unit, rates in shares of the datasheet's, so that parameters fitted on one
device carry over to another that runs the same library.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike

from ..features import Array
from .flash import (
    DECODE_ROWS,
    LIBRARIES,
    MATRIX_ROWS,
    QUARTER_RATE,
    by_width,
    key_splits,
    smooth_splits,
)
from .shape import DeviceShape

LAUNCH_S = 4e-6
"""Part of an empty call that does not shorten with the clock: the launch from a captured graph."""
LARGEST_SHARE = 0.9
"""Share of peak memory bandwidth of a prompt's largest transfers."""
WIDEST_GAIN = 1.15
"""Most that wider heads gain over width 128."""
THROTTLE_FROM_S = 1e-4
"""Duration of the products at which clocks start to fall towards their sustained value."""


@frozen(kw_only=True)
class PrefillParameters:
    """Fitted parameters of prompt attention kernels.

    Attributes
    ----------
    library : str
        Whose tiles the kernels use: "fa2" or "fa3".
    fixed : float
        Clocks of an empty call beyond its launch (scheduling metadata, cache indexing).
    compute : float
        Share of the dense rate at head width 128.
    head_exponent : float
        Rate grows as (head width / 128) to this power, up to 15% above.
    load : float
        Bytes per clock at which one unit loads keys and values from the last-level cache.
    stream : float
        Bytes per clock and unit at which queries, outputs and keys move.
    join : float
        Exponent of the p-norm of math and memory.
    throttle : float
        Slow-down per decade of duration beyond 0.1 ms.
    tail : float
        Waves lost to uneven tiles.
    tile : float
        Clocks of prologue and epilogue per wave of tiles.
    window_slack : float
        Key blocks computed beyond a sliding window's band.
    residency, sharpness : float
        Share of the last-level cache at which half of the queries, keys, values and outputs are
        found there, where the products around left them, and the exponent of the fall around it;
        0: they come from memory.
    """

    library: str
    fixed: float
    compute: float
    head_exponent: float
    load: float
    stream: float
    join: float
    throttle: float
    tail: float
    tile: float = 0.0
    window_slack: float = 0.0
    residency: float = 0.0
    sharpness: float = 6.0


@frozen(kw_only=True)
class DecodeParameters:
    """Fitted parameters of decoding attention kernels.

    Attributes
    ----------
    library : str
        Whose tiles and splits the kernels use: "fa2" or "fa3".
    fixed : float
        Clocks of an empty call beyond its launch.
    wave : float
        Clocks of prologue and epilogue per wave of blocks.
    load : float
        Bytes per clock that one unit can draw.
    memory : float
        Share of peak bandwidth of a large transfer.
    join : float
        Exponent of the p-norm of block and memory time.
    reduce : float
        Clocks to combine split results.
    residency, sharpness : float
        Share of the last-level cache at which half of a repeated working set is found there, and
        the exponent of the fall around it; only repeated benchmarks see it.
    cache : float
        Bytes per clock and unit of the last-level cache under all units.
    compute : float
        Share of the dense rate of packed score and value products.
    transpose : float
        Clocks of the copies that regroup query heads where a kernel packs them itself.
    window_slack : float
        Key blocks read beyond a sliding window.
    """

    library: str
    fixed: float
    wave: float
    load: float
    memory: float
    join: float
    reduce: float
    residency: float
    sharpness: float
    cache: float
    compute: float
    transpose: float
    window_slack: float

    def empty_s(self, device: DeviceShape) -> float:
        """Seconds of an empty call."""
        return LAUNCH_S + self.fixed / device.clock_hz


def _floats(*values: ArrayLike) -> list[Array]:
    return list(np.broadcast_arrays(*(np.asarray(v, float) for v in values)))


def tiled_keys(
    queries: ArrayLike,
    prior: ArrayLike,
    window: ArrayLike = 0.0,
    *,
    step: ArrayLike = 128.0,
    block: ArrayLike = 128.0,
    causal: bool = True,
    slack: float = 0.0,
) -> tuple[Array, Array, Array]:
    """Keys summed over the tiles of one head, keys of the longest tile, and tiles.

    Tiles advance by `step` queries; the i-th sees prior + i step keys, or a window's worth and
    `slack` key blocks more, in whole blocks of `block` keys on average over their alignment.
    """
    q, c, w, s, n = _floats(queries, prior, window, step, block)
    tiles = np.ceil(q / s)
    if not causal:
        keys = np.ceil(np.maximum(q, 1.0) / n) * n
        return tiles * keys, keys, tiles
    band = np.where(w > 0, w + s + slack * n, np.inf)
    last = np.minimum(np.ceil((c + q) / n), np.ceil(band / n)) * n
    rounded = c + np.maximum(n - s, 0.0) / 2.0
    inside = np.clip(np.floor((band - rounded) / s), 0.0, tiles)
    rising = inside * rounded + s * inside * (inside + 1.0) / 2.0
    flat = (tiles - inside) * np.where(w > 0, band, 0.0)
    return np.where(tiles <= 1, last, np.maximum(rising + flat, last)), last, tiles


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
    """Seconds of attention over `batch` chunks of `queries` tokens after `prior` cached ones."""
    b, q, c, h, kv, d, v, w = _floats(
        batch, queries, prior, heads, kv_heads, head_dim, v_head_dim, window
    )
    library = LIBRARIES[p.library]
    width = d + np.where(v > 0, v, d)
    rows, block = by_width(library.query_rows, d), by_width(library.key_block, d)
    # One query per sequence is packed by every library that packs at all.
    packed = library.packs_prompts | ((q <= 1) & (w <= 0))
    group = np.where(packed, h / kv, 1.0)
    keys, longest, tiles = tiled_keys(
        q, c, w, step=rows / group, block=block, causal=causal, slack=p.window_slack
    )
    heads_of_tiles = b * h / group
    tiles = tiles * heads_of_tiles
    rate = device.bf16_flop_per_s * device.reached(p.compute) / device.units
    rate = rate * np.minimum((width / 256.0) ** p.head_exponent, WIDEST_GAIN)
    per_key = np.maximum(2.0 * width * rows / rate,
                         width * kv_bytes_per_value / (p.load * device.clock_hz))  # fmt: skip
    ideal = keys * heads_of_tiles * per_key / device.units
    waves = tiles / (device.units * library.blocks_per_unit)
    shared = np.clip(tiles / device.units, 1.0, library.blocks_per_unit)
    math = np.maximum(ideal * (1.0 + p.tail / np.maximum(waves, 1.0)), longest * per_key * shared)
    math = math + np.ceil(waves) * p.tile / device.clock_hz
    cached = np.where(w > 0, np.minimum(c, w) + q, c + q)
    moved = b * (2.0 * q * h * width + cached * kv * width * kv_bytes_per_value)
    near = p.stream * device.units * device.clock_hz
    far = min(near, LARGEST_SHARE * device.bandwidth_bytes_per_s)
    hit = np.zeros(b.shape)
    if p.residency > 0 and device.cache_bytes > 0:
        hit = 1.0 / (1.0 + (moved / (p.residency * device.cache_bytes)) ** p.sharpness)
    memory = moved * ((1.0 - hit) / far + hit / near)
    time = (math**p.join + memory**p.join) ** (1.0 / p.join)
    decades = np.clip(np.log10(np.maximum(ideal, 1e-30) / THROTTLE_FROM_S), 0.0, 2.0)
    time = time * (1.0 + p.throttle * decades) + LAUNCH_S + p.fixed / device.clock_hz
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
    product_width: ArrayLike = 0.0,
    window: ArrayLike = 0.0,
    kv_bytes_per_value: float = 2.0,
    streamed: bool = True,
) -> Array:
    """Seconds of one query per sequence against `context` cached tokens each.

    Each (sequence, KV head) is a block of work whose keys the library splits until the blocks
    fill the device.

    Parameters
    ----------
    product_width : array
        Width of the values in the products where the cache holds them within the keys (latent
        attention, whose `v_head_dim` of the cache is nothing); 0: `v_head_dim`.
    streamed : bool
        True for an engine: caches come from memory, and sequences of unlike lengths fill their
        last key blocks and waves half on average; False for a benchmark of equal lengths that
        repeats one problem and may find it in cache.
    """
    b, ctx, h, kv, d, v, w, width = _floats(
        batch, context, heads, kv_heads, head_dim, v_head_dim, window, product_width
    )  # fmt: skip
    library = LIBRARIES[p.library]
    v = np.where(v > 0, v, d)
    width = d + np.where(width > 0, width, v)
    block = by_width(library.key_block, d)
    keys = np.where(w > 0, np.minimum(ctx, np.ceil(w / block + p.window_slack) * block), ctx)
    groups = kv if library.packs_windows else np.where(w > 0, h, kv)
    blocks = b * groups * np.ceil(h / groups / DECODE_ROWS)
    slots = device.units * library.blocks_per_unit
    if streamed:
        walked = np.maximum(keys / block + 0.5, 1.0)
        splits = pieces = smooth_splits(library, blocks, walked, device.units)
        each = walked / pieces
        full = np.maximum(blocks * pieces / slots, 1.0)
        waves = full if library.balances else full + 0.5 - 0.5 / full
    else:
        walked = np.maximum(np.ceil(keys / block), 1.0)
        considered = walked if library.balances else np.maximum(np.ceil(ctx / block), 1.0)
        splits = key_splits(library, blocks, considered, device.units)
        pieces = np.minimum(splits, walked)
        each = np.ceil(walked / pieces)
        full = blocks * pieces / slots
        waves = np.maximum(full, 1.0) if library.balances else np.ceil(full)
    time = _blocks_s(p, device, b, h, kv, d + v, width, keys, block, each, waves, blocks * pieces,
                     kv_bytes_per_value, streamed)  # fmt: skip
    combined = np.clip(splits - 1.0, 0.0, 1.0) * p.reduce
    regrouped = (b > 1) & (kv > 1) & (h > kv) & (groups == kv)
    extra = (combined + p.transpose * regrouped) / device.clock_hz
    return np.where(b > 0, time + extra + p.empty_s(device), 0.0)


def _blocks_s(
    p: DecodeParameters, device: DeviceShape, b: Array, h: Array, kv: Array, held: Array,
    width: Array, keys: Array, block: Array, each: Array, waves: Array, blocks: Array,
    kv_bytes: float, streamed: bool,
) -> Array:  # fmt: skip
    """Seconds of the blocks in their waves, joined with the bytes of the whole cache.

    A key has `held` values in the cache and takes part in products `width` wide.
    """
    units, clock = device.units, device.clock_hz
    load = blocks / units
    shared = load if streamed else np.ceil(load)
    shared = np.clip(shared, 1.0, LIBRARIES[p.library].blocks_per_unit)
    rows = np.full(h.shape, DECODE_ROWS)
    if device.rate_cut <= QUARTER_RATE:
        rows = np.minimum(np.ceil(h / kv / MATRIX_ROWS) * MATRIX_ROWS, DECODE_ROWS)
    if device.pad_rows:
        rows = np.minimum(np.ceil(h / kv / device.pad_rows) * device.pad_rows, DECODE_ROWS)
    per_block = block * np.maximum(
        held * kv_bytes / (p.load * clock),
        2.0 * width * rows / (device.bf16_flop_per_s * device.reached(p.compute) / units),
    )
    math = waves * (p.wave / clock + each * per_block * shared)
    moved = b * kv * keys * held * kv_bytes + 2.0 * b * h * held
    hit = np.zeros(b.shape)
    if not streamed and device.cache_bytes > 0:
        hit = 1.0 / (1.0 + (moved / (p.residency * device.cache_bytes)) ** p.sharpness)
    memory = moved * (
        (1.0 - hit) / (device.bandwidth_bytes_per_s * p.memory) + hit / (p.cache * units * clock)
    )
    return (math**p.join + memory**p.join) ** (1.0 / p.join)
