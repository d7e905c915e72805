"""Sparse latent attention: its indexer, attention over the chosen tokens, bytes of both caches."""

from __future__ import annotations

from ...formats import load_format
from ...models import Mixer
from ..kernels.sparse import SCORE_BYTES, SELECTION_PASSES
from .base import AttentionShape, Builder, IndexShape

INDEX_BLOCK = 128
"""Values of an index key, or of a cached latent in 8 bits, under one fp32 scale."""


def index_key_bytes(width: float) -> float:
    """Bytes per token of an indexer's cached key of `width` 8-bit values, and their scales."""
    return width + 4.0 * width / INDEX_BLOCK


def latent_bytes(rank: float, rope: float, value_bytes: float, *, sparse: bool) -> float:
    """Bytes per token of a cached latent of `rank` values and `rope` rotary ones.

    Sparse kernels with an 8-bit cache keep the rotary part in 16 bits and scale the rest by
    blocks (FlashMLA: 656 bytes for 512 + 64 values).
    """
    if sparse and value_bytes <= 1.0:
        return rank * value_bytes + 4.0 * rank / INDEX_BLOCK + 2.0 * rope
    return (rank + rope) * value_bytes


def add_indexer(b: Builder, m: Mixer, count: float) -> None:
    """Scores of all past tokens and the choice of the best (DeepSeek-V3.2, equation 1).

    Its few heads share one key per token in 8 bits, are not split over tensor ranks, and multiply
    in 8 bits.
    """
    width = m.index_heads * m.index_dim
    b.gemm("index query projection", "attention", count, width, m.q_rank or b.model.hidden)
    b.gemm("index key projection", "attention", count, m.index_dim + m.index_heads, b.model.hidden)
    b.stream("index rope and cache write", "attention", count, width + m.index_dim,
             (width + m.index_dim) / 2.0)  # fmt: skip
    narrow = load_format("fp8-e4m3")
    for phase in ("prefill", "decode"):
        b.add(
            name=f"index scores and selection ({phase})", part="attention", kind=f"mla_{phase}",
            count=count, flop={f"pairs_{phase}:0": 2.0 * width},
            read={f"kv_{phase}:0": index_key_bytes(m.index_dim), f"{phase}_tokens": float(width),
                  f"pairs_{phase}:0": SELECTION_PASSES * SCORE_BYTES},
            written={f"pairs_{phase}:0": SCORE_BYTES, f"{phase}_tokens": 4.0 * m.index_topk},
            rate=narrow,
            shape=IndexShape(heads=m.index_heads, kv_heads=1, head_dim=m.index_dim, v_head_dim=0,
                             selected=m.index_topk),
        )  # fmt: skip


def add_sparse_attention(b: Builder, m: Mixer, count: float, heads: float, v_dim: int) -> None:
    """Attention over the chosen tokens, prompts too with all heads on the cached latent.

    Queries take the form of decoding (DeepSeek-V3.2, section 2.1: DSA under MLA's multi-query
    mode), as each of them reads tokens of its own.
    """
    nope, rope, rank, act = m.head_dim, m.rope_dim, m.kv_rank, b.activation_bytes
    n_heads, w = round(heads), m.index_topk
    token = latent_bytes(rank, rope, b.kv_bytes, sparse=True)
    b.gemm("query absorption", "attention", count, rank, nope, batch=n_heads)
    for phase in ("prefill", "decode"):
        b.add(
            name=f"attention ({phase})", part="attention", kind=f"mla_{phase}", count=count,
            flop={f"pairs_{phase}:{w}": 2.0 * heads * (2 * rank + rope)},
            read={f"kv_{phase}:{w if phase == 'decode' else 0}": token,
                  f"{phase}_tokens": heads * (rank + rope) * act},
            written={f"{phase}_tokens": heads * rank * act}, rate=b.format_of("activations"),
            shape=AttentionShape(heads=heads, kv_heads=1, head_dim=rank + rope, v_head_dim=rank,
                                 selected=w),
        )  # fmt: skip
    b.gemm("value up projection", "attention", count, v_dim, rank, batch=n_heads)
