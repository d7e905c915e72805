"""How the kernel tables of aiconfigurator route tokens: the loads its benchmark of experts draws.

The benchmark names its distribution. "balanced" hands tokens to experts in strides; "power_law_a"
draws every expert's load from a power law of exponent a, scales the loads to the tokens there are,
and measures the rank that has most. Loads are known up to the random draws, of which the mean of
a few counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from ..cost.features import Array
from ..cost.kernels.routing import Routing

DRAWS = 5
"""Draws per row, as many as the benchmark averages over."""
TILE_ROWS = (16, 32, 64, 128)
SINCE = (0, 20)
"""vLLM release from whose tables on what rounding leaves is dealt to ranks in turn; before, it went
to neighbouring experts, which share a rank."""
UNGATED = {(2688, 1856, 6, 128), (2048, 5120, 22, 512), (1024, 2688, 22, 512)}
"""Hidden width, inner width, experts per token and experts of models whose experts square a
rectifier in place of a gate (Nemotron 3); tables of releases before `SINCE` gate them too."""


SHAPE = ("hidden_size", "inter_size", "topk", "num_experts")
"""Columns of a table that say which experts were run."""


def deals_in_turn(version: str) -> bool:
    """Whether tables of this vLLM release deal what rounding leaves to ranks in turn."""
    parts = version.split(".")[:2]
    return not all(p.isdigit() for p in parts) or tuple(int(p) for p in parts) >= SINCE


def is_gated(hidden: int, inner: int, per_token: int, experts: int, in_turn: bool) -> bool:
    """Whether the benchmark ran these experts with a gate."""
    return not in_turn or (hidden, inner, per_token, experts) not in UNGATED


def gated_rows(columns: Mapping[str, Any], in_turn: bool) -> Any:
    """`is_gated` of every row of a table of the benchmark, in an array of bool."""
    shapes = zip(*(columns[c] for c in SHAPE), strict=True)
    return np.array([is_gated(int(h), int(i), int(k), int(e), in_turn) for h, i, k, e in shapes])


def benchmark_routing(
    tokens: Iterable[Any],
    experts: Iterable[Any],
    per_token: Iterable[Any],
    ranks: Iterable[Any],
    distribution: Iterable[Any],
    in_turn: bool = True,
) -> Routing:
    """Work of the measured rank, row by row of a table of experts.

    Parameters
    ----------
    tokens, experts, per_token, ranks : iterable of int
        Tokens of the group, experts in all, experts per token, ranks the experts are spread over.
    distribution : iterable of str
        "balanced" or "power_law_" and the exponent.
    in_turn : bool
        See `deals_in_turn`.
    """
    keys = zip(tokens, experts, per_token, ranks, distribution, strict=True)
    rows = [_row(int(t), int(e), int(k), int(r), str(d), in_turn) for t, e, k, r, d in keys]
    table = np.array(rows, float).reshape(-1, 2 + len(TILE_ROWS))
    tiles = {rows_: table[:, 2 + i] for i, rows_ in enumerate(TILE_ROWS)}
    return Routing(local=table[:, 0], load=table[:, 1], tiles=lambda rows_: tiles[rows_])


@lru_cache(maxsize=1 << 16)
def _row(
    tokens: int, experts: int, per_token: int, ranks: int, distribution: str, in_turn: bool
) -> tuple[float, ...]:
    """Experts visited, pairs and tiles of the measured rank."""
    if distribution == "balanced":
        draws = [_balanced(tokens, experts, per_token)[: experts // ranks]]
    else:
        exponent = float(distribution.rsplit("_", 1)[-1])
        rng = np.random.default_rng([tokens, experts, per_token, ranks])
        draws = [
            _busiest(_power_law(rng, tokens, experts, per_token, ranks, exponent, in_turn), ranks)
            for _ in range(DRAWS)
        ]
    found = [[(d > 0).sum(), d.sum(), *(np.ceil(d / r).sum() for r in TILE_ROWS)] for d in draws]
    return tuple(np.mean(found, axis=0).tolist())


def _balanced(tokens: int, experts: int, per_token: int) -> Array:
    """Tokens of each expert where token t visits t, t + stride, t + 2 stride, ..."""
    stride = -(-experts // per_token)
    first = np.arange(tokens)
    if tokens < stride:
        first = np.floor(first * stride / tokens).astype(int)
    visited = (first[:, None] + np.arange(per_token) * stride) % experts
    return np.bincount(visited.reshape(-1), minlength=experts)


def _busiest(counts: Array, ranks: int) -> Array:
    """The experts of the rank with most tokens."""
    table = counts.reshape(ranks, -1)
    return table[table.sum(axis=1).argmax()]


def _power_law(
    rng: np.random.Generator, tokens: int, experts: int, per_token: int, ranks: int,
    exponent: float, in_turn: bool,
) -> Array:  # fmt: skip
    """Tokens of each expert: a truncated power law by its inverse, scaled, rounded and mended."""
    pairs = tokens * per_token
    low, high = (1.0, max(0.8 * tokens, 1.0001)) if pairs > experts else (0.01, 2.0)
    power = 1.0 - exponent
    drawn = ((high**power - low**power) * rng.random(experts) + low**power) ** (1.0 / power)
    counts = np.round(drawn / drawn.sum() * pairs).astype(int)
    over = int(np.maximum(counts - tokens, 0).sum())
    counts = np.minimum(counts, tokens)
    if in_turn:
        counts = _deal(counts, over, ranks, tokens)
        return _deal(counts, pairs - int(counts.sum()), ranks, tokens)
    return _neighbours(_fill_up(counts, over, tokens), pairs, tokens)


def _deal(counts: Array, rest: int, ranks: int, most: int) -> Array:
    """`rest` more (or fewer) tokens, to ranks in turn, to the emptiest (fullest) expert of each."""
    table = counts.reshape(ranks, -1).copy()
    while rest > 0:
        before = rest
        each, odd = divmod(rest, ranks)
        for i in range(ranks):
            rest -= _level(table[i], each + (i < odd), most)
        if rest == before:
            break
    while rest < 0:
        for i in range(ranks):
            fullest = table[i].argmax()
            if rest < 0 and table[i][fullest] > 0:
                table[i][fullest] -= 1
                rest += 1
    return table.reshape(-1)


def _level(counts: Array, add: int, most: int) -> int:
    """Raise the lowest of `counts` by `add` in all, in place, none above `most`; what was added."""
    left = add
    while left > 0:
        low = counts.min()
        if low >= most:
            break
        lowest = np.flatnonzero(counts == low)
        above = counts[counts > low]
        step = (min(most, above.min()) if above.size else most) - low
        if step * lowest.size <= left:
            counts[lowest] += step
            left -= step * lowest.size
        else:
            each, odd = divmod(left, lowest.size)
            counts[lowest] += each
            counts[lowest[:odd]] += 1
            left = 0
    return add - left


def _fill_up(counts: Array, rest: int, most: int) -> Array:
    """`rest` more tokens, the emptiest experts filled one after another."""
    counts = counts.copy()
    for i in np.argsort(-counts, kind="stable")[::-1]:
        given = min(rest, most - int(counts[i]))
        counts[i] += given
        rest -= given
    return counts


def _neighbours(counts: Array, pairs: int, most: int) -> Array:
    """Tokens up to `pairs`, or down, one to each expert from the emptiest on."""
    counts = counts.copy()
    order = np.argsort(-counts, kind="stable")[::-1]
    rest, at = pairs - int(counts.sum()), 0
    while rest:
        i = order[at % len(order)]
        at += 1
        if rest > 0 and counts[i] < most:
            counts[i] += 1
            rest -= 1
        elif rest < 0:
            counts[i if counts[i] > 0 else counts.argmax()] -= 1
            rest += 1
    return counts
