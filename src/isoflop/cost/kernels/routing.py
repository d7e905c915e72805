"""What one rank's experts receive: experts visited, token-expert pairs, and tiles of their rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike

from ..features import Array

SKEW = 0.68
"""Expert popularity in an engine falls as rank to minus this power: real routing is uneven, and
this is what the skewed benchmarks of 16-bit and block-scaled experts on Hopper amount to."""


@frozen(kw_only=True)
class Routing:
    """Work of one rank.

    Attributes
    ----------
    local : array
        Experts of this rank that receive tokens.
    load : array
        Pairs of a token and one of this rank's experts.
    tiles : callable
        Row tiles over all local experts as a function of the tile's rows, each expert's last one
        padded.
    """

    local: Array
    load: Array
    tiles: Callable[[int], Array]


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


def engine_routing(
    tokens: ArrayLike, experts: float, experts_local: float, per_token: float
) -> Routing:
    """Expected work of a rank whose experts are as popular as the others', by uneven routing.

    Parameters
    ----------
    tokens : array
        Tokens of the whole expert group, before dispatch.
    experts, experts_local : float
        Experts in all and on this rank.
    """
    t = np.asarray(tokens, float)
    degree = experts / experts_local
    touched = experts_touched(t, int(experts), per_token, SKEW)
    local = np.clip(touched / degree, np.minimum(1.0, t), experts_local)
    load = np.minimum(t * per_token / degree, t * min(per_token, experts_local))
    load = np.maximum(load, np.minimum(local, t * per_token))
    rows = load / np.maximum(local, 1e-9)
    # The last tile of an expert is half empty on average.
    return Routing(local=local, load=load,
                   tiles=lambda tile: local * np.maximum(1.0, rows / tile + 0.5))  # fmt: skip


def even_routing(
    tokens: ArrayLike, experts: float, experts_local: float, per_token: float
) -> Routing:
    """Work of a rank where every expert receives as many tokens."""
    t = np.asarray(tokens, float)
    pairs = t * per_token
    local = np.minimum(pairs, experts) * experts_local / experts
    load = pairs * experts_local / experts
    rows = load / np.maximum(local, 1e-9)
    return Routing(local=local, load=load,
                   tiles=lambda tile: local * np.ceil(rows / tile - 1e-9))  # fmt: skip
