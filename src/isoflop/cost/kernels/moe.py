"""Routed experts: two grouped products over the experts that the tokens visit.

Each expert's rows are padded to whole tiles. A tile's step over the inner dimension takes its
products and the loads of its operands, from the last-level cache where they fit there and at a
slower pace where they do not; tiles run in waves over the units, against the bytes of the visited
experts' weights from memory. Between the products, activations are permuted, gated and summed.

Libraries take the tile by a rule of the number of tokens (`ladder`), or a searched one for shapes
they ship a table for (`tuned`) or of a device whose rule is not known (no ladder).

References
----------
vLLM's grouped Triton kernel (`fused_moe`): tile rules of releases up to 0.17 and from 0.18 on, as
its default configuration states them; Triton loads in wide words where a matrix's row length
divides by 16 values.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike

from ..features import Array
from .routing import Routing, engine_routing
from .shape import DeviceShape

TILES = tuple((rows, columns) for rows in (16, 32, 64, 128) for columns in (64, 128, 256))
"""Tiles of a searched table: rows by columns."""
SMALL_TOKENS = 4.0
"""Tokens over which the cheap small-batch routing path gives way to the general one."""
ALIGNED_VALUES = 16
"""Values that a row's length must divide by for wide loads."""


@frozen(kw_only=True)
class MoeParameters:
    """Fitted parameters of fused mixture-of-experts kernels.

    Attributes
    ----------
    fixed : float
        Seconds of routing, alignment and launches.
    small : float
        Share of `fixed` saved by a single token.
    compute : float
        Share of the dense rate that a tile's products reach.
    memory : float
        Share of peak memory bandwidth of a large transfer.
    wave : float
        Seconds of prologue and epilogue per wave of tiles.
    join : float
        Exponent of the p-norm of math and memory time.
    near : float
        Bandwidth of the last-level cache under all units, over that of memory.
    far : float
        Share of `near` at which a tile loads operands that outgrow the cache.
    residency : float
        Share of the last-level cache that holds a working set.
    permute : float
        Times the permuted activations cross memory beyond the products themselves.
    idle : float
        The same for pairs whose expert another rank holds, where every rank sees all tokens.
    align : float
        Seconds of alignment per expert.
    unaligned : float
        Slow-down of the second product where its row length does not divide by 16.
    ladder : tuple of (tokens, rows, columns)
        Fixed rule: the tile of the first entry with at least so many tokens, else of the last.
    per_expert : bool
        Whether the ladder counts tokens per local expert.
    tuned : tuple of (experts, inner)
        Local experts and inner width of shapes that are searched all the same.
    """

    fixed: float
    small: float
    compute: float
    memory: float
    wave: float
    join: float
    near: float
    far: float
    residency: float
    permute: float
    idle: float
    align: float
    unaligned: float
    ladder: tuple[tuple[int, ...], ...] = ()
    per_expert: bool = False
    tuned: tuple[tuple[int, ...], ...] = ()


def moe_time_s(
    p: MoeParameters,
    device: DeviceShape,
    tokens: ArrayLike,
    *,
    hidden: ArrayLike,
    inner: ArrayLike,
    experts: ArrayLike,
    experts_local: ArrayLike,
    per_token: ArrayLike,
    rate_flop_per_s: float,
    weight_bytes_per_value: float,
    activation_bytes_per_value: float = 2.0,
    gated: ArrayLike = True,
    routing: Routing | None = None,
    streamed: bool = True,
) -> Array:
    """Seconds of one layer's routed experts on one rank, arrays broadcasting with `tokens`.

    Parameters
    ----------
    tokens : array
        Tokens of the whole expert group, before dispatch.
    inner : array
        Width of one expert on this rank (already divided by the expert's tensor degree).
    experts, experts_local : array
        Experts in all and on this rank.
    routing : Routing
        What this rank receives; an engine's by default (`routing.engine_routing`).
    streamed : bool
        True for an engine: weights come from memory, and other ranks' pairs are not seen. False
        for a benchmark that repeats one problem over all tokens of the group.
    """
    t = np.asarray(tokens, float)
    h, i, e, el, k, g = np.broadcast_arrays(
        *(np.asarray(v, float) for v in (hidden, inner, experts, experts_local, per_token, gated))
    )
    if routing is None:
        routing = engine_routing(t, float(e), float(el), float(k))
    up = (1.0 + g) * i
    weights = routing.local * (up + i) * h * weight_bytes_per_value
    hit = np.zeros(t.shape) if streamed else device.resident(weights, p.residency)
    bytes_per = (weight_bytes_per_value, activation_bytes_per_value)
    tiles = [(np.ones(t.shape, bool), TILES)] if not p.ladder else _chosen(p, t, el, i)
    total = np.zeros(t.shape)
    for n, depth, rows in ((up, h, t), (i * 0.0 + h, i, routing.load)):
        seconds = _grouped(p, device, routing, n, depth, rows, hit, rate_flop_per_s, bytes_per,
                           tiles)  # fmt: skip
        # The first product's rows are of the model's width, which always divides.
        total = total + seconds * np.where(depth % ALIGNED_VALUES == 0, 1.0, p.unaligned)
    others = 0.0 if streamed else p.idle * np.maximum(t * k - routing.load, 0.0)
    moved = (p.permute * routing.load + others) * (2 * h + 3 * i) * 2
    total = total + moved / device.bandwidth_bytes_per_s
    fixed = p.fixed * (1.0 - p.small * np.exp(-np.maximum(t - 1.0, 0.0) / SMALL_TOKENS))
    return np.where(t > 0, total + fixed + p.align * e, 0.0)


def _chosen(
    p: MoeParameters, tokens: Array, experts_local: Array, inner: Array
) -> list[tuple[Array, tuple[tuple[int, int], ...]]]:
    """Masks of `tokens` and the tiles considered there."""
    counted = tokens / experts_local if p.per_expert else tokens
    tuned = np.zeros(tokens.shape, bool)
    for experts, width in p.tuned:
        tuned |= (np.round(experts_local) == experts) & (np.round(inner) == width)
    out = [(tuned, TILES)]
    left = ~tuned
    for place, (most, rows, columns) in enumerate(p.ladder):
        mask = left & (counted <= most) if place < len(p.ladder) - 1 else left
        out.append((mask, ((rows, columns),)))
        left = left & ~mask
    return [(mask, tiles) for mask, tiles in out if mask.any()]


def _grouped(
    p: MoeParameters, device: DeviceShape, routing: Routing, n: Array, k: Array, rows: Array,
    hit: Array, rate_flop_per_s: float, bytes_per: tuple[float, float],
    choices: list[tuple[Array, tuple[tuple[int, int], ...]]],
) -> Array:  # fmt: skip
    """One grouped product of `n` columns and depth `k`, whose inputs are a matrix of `rows`."""
    units, bandwidth = device.units, device.bandwidth_bytes_per_s
    near = p.near * bandwidth
    weight, activation = bytes_per
    moved = routing.local * n * k * weight + routing.load * (k * activation + 2 * n)
    memory = moved * ((1 - hit) / (bandwidth * p.memory) + hit / near)
    arithmetic = 2.0 / (rate_flop_per_s * device.reached(p.compute) / units)
    held = device.resident(rows * k * activation, p.residency)
    load_a = (held + (1 - held) / p.far) * activation * units / near
    held = device.resident(n * k * weight, p.residency)
    load_b = (held + (1 - held) / p.far) * weight * units / near
    out = np.zeros(np.shape(rows))
    for mask, options in choices:
        best = np.full(np.shape(rows), np.inf)
        for tm, tn in options:
            tiles = routing.tiles(tm) * np.ceil(n / tn)
            waves = np.maximum(tiles / units, 1.0) + 0.5 * (tiles > units)
            step = np.hypot(arithmetic * tm * tn, tm * load_a + tn * load_b)
            math = waves * (k * step + p.wave)
            filled = np.sqrt(np.minimum(1.0, np.maximum(tiles, 1e-9) / units))
            time = (math**p.join + (memory / filled) ** p.join) ** (1 / p.join)
            best = np.minimum(best, time)
        out = np.where(mask, best, out)
    return out
