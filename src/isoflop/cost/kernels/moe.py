"""Routed experts: two grouped products over the experts that the tokens visit."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike

from ..features import Array
from .shape import DeviceShape

TILE_ROWS = (16, 32, 64, 128)
TILE_COLUMNS = (64, 128)
SMALL_TOKENS = 4.0
"""Tokens over which the cheap small-batch routing path gives way to the general one."""


@frozen(kw_only=True)
class MoeParameters:
    """Fitted parameters of fused mixture-of-experts kernels.

    Attributes
    ----------
    fixed : float
        Seconds of routing, alignment and launches.
    small : float
        Share of `fixed` saved by a single token.
    compute, memory, wave, join, cache_speed, residency : float
        As for GEMMs.
    skew : float
        Expert popularity falls as rank to minus this power (0: uniform).
    imbalance : float
        Extra load of the busiest rank per doubling of the expert degree.
    permute : float
        Times the permuted activations cross memory beyond the products themselves.
    align : float
        Seconds of alignment per expert.
    """

    fixed: float
    small: float
    compute: float
    memory: float
    wave: float
    join: float
    cache_speed: float
    residency: float
    skew: float
    imbalance: float
    permute: float
    align: float


@lru_cache(maxsize=256)
def popularity(experts: int, per_token: float, skew: float) -> Array:
    """Probability that a token visits each expert; they sum to `per_token`, none above one."""
    weight = np.arange(1, experts + 1.0) ** -skew
    share = weight / weight.sum()
    q = np.minimum(1.0, per_token * share)
    for _ in range(50):
        full = q >= 1.0
        rest = per_token - full.sum()
        if full.all() or rest <= 0:
            break
        scaled = np.where(full, 1.0, np.minimum(1.0, share * rest / share[~full].sum()))
        if np.array_equal(scaled >= 1.0, full):
            q = scaled
            break
        q = scaled
    return q


def experts_touched(tokens: ArrayLike, experts: int, per_token: float, skew: float = 0.0) -> Array:
    """Expected distinct experts that `tokens` tokens visit: sum over experts of 1 - (1 - q)^T."""
    t = np.asarray(tokens, float)
    q = popularity(int(experts), float(per_token), float(skew))
    if np.all(q == q[0]):
        return experts * -np.expm1(t * np.log1p(-min(q[0], 1 - 1e-12)))
    return -np.expm1(t[..., None] * np.log1p(-np.minimum(q, 1 - 1e-12))).sum(axis=-1)


def moe_time_s(
    p: MoeParameters,
    device: DeviceShape,
    tokens: ArrayLike,
    *,
    hidden: float,
    inner: float,
    experts: float,
    experts_local: float,
    per_token: float,
    rate_flop_per_s: float,
    weight_bytes_per_value: float,
    activation_bytes_per_value: float = 2.0,
    gated: bool = True,
    balanced: bool = False,
    streamed: bool = True,
) -> Array:
    """Seconds of one layer's routed experts on one rank.

    Parameters
    ----------
    tokens : array
        Tokens of the whole expert group, before dispatch.
    inner : float
        Width of one expert on this rank (already divided by the expert's tensor degree).
    experts, experts_local : float
        Experts in all and on this rank.
    balanced : bool
        Round-robin routing, where T tokens touch min(T k, E) experts and every rank carries the
        same load; otherwise skewed routing with the busiest rank deciding.
    """
    t = np.asarray(tokens, float)
    degree = experts / experts_local
    if balanced:
        touched = np.minimum(t * per_token, experts)
        load = t * per_token / degree
    else:
        touched = experts_touched(t, int(experts), per_token, p.skew)
        load = t * per_token / degree * (1.0 + p.imbalance * np.log2(degree))
    local = np.clip(touched / degree, np.minimum(1.0, t), experts_local)
    load = np.minimum(load, t * min(per_token, experts_local))
    load = np.maximum(load, np.minimum(local, t * per_token))
    up = (2 if gated else 1) * inner
    weights = local * (up + inner) * hidden * weight_bytes_per_value
    hit = np.zeros(t.shape) if streamed else device.resident(weights, p.residency)
    total = np.zeros(t.shape)
    for n, k in ((up, hidden), (hidden, inner)):
        total = total + _grouped(
            p, device, local, load, n, k, hit, rate_flop_per_s, weight_bytes_per_value,
            activation_bytes_per_value, balanced,
        )  # fmt: skip
    total = total + p.permute * load * (2 * hidden + 3 * inner) * 2 / device.bandwidth_bytes_per_s
    fixed = p.fixed * (1.0 - p.small * np.exp(-np.maximum(t - 1.0, 0.0) / SMALL_TOKENS))
    return np.where(t > 0, total + fixed + p.align * experts, 0.0)


def _grouped(
    p: MoeParameters, device: DeviceShape, local: Array, load: Array, n: float, k: float,
    hit: Array, rate_flop_per_s: float, weight_bytes: float, activation_bytes: float,
    balanced: bool,
) -> Array:  # fmt: skip
    """One grouped product: each touched expert's rows are padded to whole tiles."""
    units, bandwidth = device.units, device.bandwidth_bytes_per_s
    cache = p.cache_speed * bandwidth
    rows = load / np.maximum(local, 1e-9)
    moved = local * n * k * weight_bytes + load * (k * activation_bytes + 2 * n)
    memory = moved * ((1 - hit) / (bandwidth * p.memory) + hit / cache)
    best = np.full(np.shape(load), np.inf)
    for tm in TILE_ROWS:
        # Uneven loads waste half a tile per expert on average.
        padded = np.ceil(rows / tm - 1e-9) if balanced else rows / tm + 0.5
        for tn in TILE_COLUMNS:
            tiles = local * np.maximum(1.0, padded) * np.ceil(n / tn)
            waves = np.maximum(tiles / units, 1.0) + 0.5 * (tiles > units)
            per_k = max(
                2.0 * tm * tn / (rate_flop_per_s * device.reached(p.compute) / units),
                (tm * activation_bytes + tn * weight_bytes) / (cache / units),
            )
            math = waves * (k * per_k + p.wave)
            filled = np.sqrt(np.minimum(1.0, np.maximum(tiles, 1e-9) / units))
            best = np.minimum(best, (math**p.join + (memory / filled) ** p.join) ** (1 / p.join))
    return best
