"""Sparse latent attention: an indexer scores all past tokens, attention reads the best of them.

The defaults were set on one device's table (alibaba/InferSim, H800: 64 index heads of 128, 128
query heads over 2,048 chosen tokens): no other device was measured, and no time of the selection
itself was, which is an estimate from its bytes.

References
----------
DeepSeek-AI 2025, "DeepSeek-V3.2", section 2.1: I = sum over heads of w ReLU(q k), the `topk`
largest of which are attended to, with all heads on the same latent.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike

from ..features import Array, pairs
from .attention import LAUNCH_S
from .shape import DeviceShape

SCORE_BYTES = 4.0
"""One score in fp32, as the indexer writes it and the selection reads it."""
SELECTION_PASSES = 2.0
"""How often the selection reads the scores: once to find the threshold, once to collect."""
SELECTION_BANDWIDTH = 0.85
HEAD_ROWS = 64.0
"""Query heads that one tile of the sparse kernels holds; fewer are padded to it."""


@frozen(kw_only=True)
class SparseParameters:
    """Kernels of sparse latent attention.

    Attributes
    ----------
    index_compute : float
        Share of the dense 8-bit rate of the scores of prompts.
    index_memory : float
        Share of peak bandwidth at which decoding reads the index keys.
    index_ramp : float
        Bytes per unit, read at the start of a decoding call, that cost twice their time.
    index_fixed, index_prompt_fixed : float
        Clocks of an empty call beyond its launch, of decoding and of a prompt.
    prefill_compute, decode_compute : float
        Share of the dense 16-bit rate of attention over the chosen tokens: of prompts, and of
        decoding from an 8-bit cache, which is expanded on the way.
    memory : float
        Share of peak bandwidth at which chosen tokens are gathered.
    fixed : float
        Clocks of an empty call of attention beyond its launch.
    """

    index_compute: float = 0.59
    index_memory: float = 0.9
    index_ramp: float = 3.0e5
    index_fixed: float = 0.0
    index_prompt_fixed: float = 18000.0
    prefill_compute: float = 0.639
    decode_compute: float = 0.414
    memory: float = 0.9
    fixed: float = 7000.0


def index_scores_s(
    p: SparseParameters,
    device: DeviceShape,
    *,
    decoding: bool,
    batch: ArrayLike,
    queries: ArrayLike,
    prior: ArrayLike,
    heads: float,
    width: float,
    key_bytes: float,
    rate_flop_per_s: float,
) -> Array:
    """Seconds of the scores of `batch` chunks of `queries` tokens after `prior` cached ones.

    Prompts are bound by 8-bit products, decoding by the index keys, `key_bytes` each, of all
    cached tokens.
    """
    b, q, c = (np.asarray(v, float) for v in (batch, queries, prior))
    seen = b * pairs(q, c)
    math = seen * 2.0 * heads * width / (rate_flop_per_s * p.index_compute)
    moved = b * (c + q) * key_bytes + seen * SCORE_BYTES
    if decoding:
        ramp = p.index_ramp * device.units
        moved = moved * (1.0 + ramp / (moved + ramp))
    memory = moved / (device.bandwidth_bytes_per_s * p.index_memory)
    fixed = p.index_fixed if decoding else p.index_prompt_fixed
    time = np.maximum(math, memory) + LAUNCH_S + fixed / device.clock_hz
    return np.where(seen > 0, time, 0.0)


def selection_s(device: DeviceShape, scores: ArrayLike) -> Array:
    """Seconds to find the largest of every query's scores, `scores` in all: an estimate."""
    n = np.asarray(scores, float)
    moved = SELECTION_PASSES * SCORE_BYTES * n
    time = moved / (device.bandwidth_bytes_per_s * SELECTION_BANDWIDTH) + LAUNCH_S
    return np.where(n > 0, time, 0.0)


def sparse_attention_s(
    p: SparseParameters,
    device: DeviceShape,
    *,
    decoding: bool,
    queries: ArrayLike,
    heads: float,
    selected: float,
    head_dim: float,
    v_head_dim: float,
    token_bytes: ArrayLike,
) -> Array:
    """Seconds of `queries` tokens over `selected` chosen ones each, by one shared latent.

    A query that has seen fewer tokens costs as much: the kernels run over padded lists.

    Parameters
    ----------
    token_bytes : array
        Bytes of one cached token.
    """
    n, kept = np.asarray(queries, float), np.asarray(token_bytes, float)
    rows = np.ceil(heads / HEAD_ROWS) * HEAD_ROWS
    full = device.reached(p.prefill_compute)
    expanded = device.reached(p.decode_compute)
    share = np.where(decoding & (kept < 2.0 * head_dim), expanded, full)
    math = n * selected * 2.0 * rows * (head_dim + v_head_dim) / (device.bf16_flop_per_s * share)
    # Neighbouring queries of a prompt choose much the same tokens, which the cache then holds.
    moved = n * selected * kept if decoding else np.zeros(n.shape)
    memory = moved / (device.bandwidth_bytes_per_s * p.memory)
    time = np.maximum(math, memory) + LAUNCH_S + p.fixed / device.clock_hz
    return np.where(n > 0, time, 0.0)
