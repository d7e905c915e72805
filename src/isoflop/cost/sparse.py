"""Seconds of the operators of sparse latent attention: the indexer with its choice, attention."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..formats import NumberFormat
from .features import Array, Batch, pairs
from .kernels import DeviceShape
from .kernels.sparse import SparseParameters, index_scores_s, selection_s, sparse_attention_s
from .operators.base import AttentionShape, IndexShape, Operator


def is_sparse(op: Operator) -> bool:
    """Whether an operator belongs to attention over chosen tokens, or chooses them."""
    return isinstance(op.shape, AttentionShape) and op.shape.selected > 0


def sparse_time_s(
    p: SparseParameters, device: DeviceShape, op: Operator, batch: Batch,
    rate: Callable[[NumberFormat], tuple[float, str]],
) -> Array:  # fmt: skip
    """Seconds of one launch of `op`, for which `is_sparse` holds, on a batch.

    Parameters
    ----------
    rate : callable
        Dense FLOP/s of an operand format on the device, and the name of the rate.
    """
    shape = op.shape
    assert isinstance(shape, AttentionShape)
    decoding = op.kind == "mla_decode"
    if decoding:
        sequences, queries, prior = batch.decode_sequences, np.ones(()), batch.decode_context
    else:
        sequences, prior = batch.prefill_sequences, batch.prefill_prior
        queries = batch.prefill_tokens * shape.token_share
    if not sequences.any():
        return np.zeros(())
    prior = prior * shape.token_share
    if isinstance(shape, IndexShape):
        assert op.rate is not None
        scores = index_scores_s(
            p, device, decoding=decoding, batch=sequences, queries=queries, prior=prior,
            heads=shape.heads, width=shape.head_dim,
            key_bytes=op.read["kv_decode:0" if decoding else "kv_prefill:0"],
            rate_flop_per_s=rate(op.rate)[0],
        )  # fmt: skip
        return shape.work * (scores + selection_s(device, sequences * pairs(queries, prior)))
    token = op.read[f"kv_decode:{shape.selected}" if decoding else "kv_prefill:0"]
    return shape.work * sparse_attention_s(
        p, device, decoding=decoding, queries=sequences * queries, heads=shape.heads,
        selected=shape.selected, head_dim=shape.head_dim, v_head_dim=shape.v_head_dim,
        token_bytes=token,
    )  # fmt: skip
