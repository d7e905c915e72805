"""Token mixers: attention in its variants, linear attention, state space, convolution."""

from __future__ import annotations

from ...errors import InvalidInput
from ...models import Mixer
from .base import AttentionShape, Builder, Coefficients
from .latent import add_indexer, add_sparse_attention


def add_mixer(b: Builder, mixer: Mixer, count: float) -> None:
    """Append the operators of `count` layers' mixer to the builder."""
    if mixer.kind == "none":
        return
    try:
        build = _BUILDERS[mixer.kind]
    except KeyError:
        raise InvalidInput(f"no operators are known for the mixer '{mixer.kind}'") from None
    build(b, mixer, count)


def _row_parallel_end(b: Builder, name: str, count: float) -> None:
    """The reduction that ends a row-parallel matrix pair (Megatron-LM, section 3)."""
    hidden, ranks = b.model.hidden, b.plan.tensor
    if b.plan.sequence_parallel:
        b.collective(f"{name} reduce-scatter", count, "reduce_scatter", ranks, hidden)
        b.collective(f"{name} all-gather", count, "all_gather", ranks, hidden)
    else:
        b.collective(f"{name} all-reduce", count, "all_reduce", ranks, hidden)


def _attention(b: Builder, m: Mixer, count: float) -> None:
    hidden, tp = b.model.hidden, b.plan.tensor
    heads, kv_heads = m.heads / tp, b.plan.kv_heads_per_rank(m.kv_heads)
    v_dim = m.v_head_dim or m.head_dim
    q_width = heads * m.head_dim * (2 if m.gated_output else 1)
    kv_width = kv_heads * (m.head_dim + v_dim)
    b.gemm("qkv projection", "attention", count, q_width + kv_width, hidden)
    # Rotary embedding (and head norms) read the projections once and write the cache; an encoder
    # has neither, and splits its heads.
    name = "rope and cache write" if m.causal else "head split"
    b.stream(name, "attention", count, q_width + kv_width, q_width + kv_width)
    _attention_core(b, m, count, heads, kv_heads, m.head_dim, v_dim)
    if m.gated_output:
        b.stream("output gate", "attention", count, 2 * heads * v_dim, heads * v_dim)
    b.gemm("output projection", "attention", count, hidden, heads * v_dim)
    _row_parallel_end(b, "attention", count)


def _attention_core(
    b: Builder, m: Mixer, count: float, heads: float, kv_heads: float, qk_dim: int, v_dim: int
) -> None:
    """Scores and values: 2 heads (qk_dim + v_dim) FLOP per query-key pair."""
    act, per_pair = b.activation_bytes, 2.0 * heads * (qk_dim + v_dim)
    per_key = kv_heads * (qk_dim + v_dim) * b.kv_bytes
    io_q, io_o = heads * qk_dim * act, heads * v_dim * act
    w = m.window
    shape = AttentionShape(
        heads=heads, kv_heads=kv_heads, head_dim=qk_dim, v_head_dim=v_dim, window=w,
        causal=m.causal,
    )  # fmt: skip
    pairs = f"pairs_prefill:{w}" if m.causal else f"pairs_full:{w}"
    rate = b.format_of("activations")
    b.add(
        name="attention (prefill)", part="attention", kind="prefill", count=count,
        flop={pairs: per_pair},
        read={f"kv_prefill:{w}": per_key, "prefill_tokens": io_q},
        written={"prefill_tokens": io_o}, rate=rate, shape=shape,
    )  # fmt: skip
    if m.causal:
        b.add(
            name="attention (decode)", part="attention", kind="decode", count=count,
            flop={f"pairs_decode:{w}": per_pair},
            read={f"kv_decode:{w}": per_key, "decode_tokens": io_q},
            written={"decode_tokens": io_o}, rate=rate, shape=shape,
        )  # fmt: skip


def _mla(b: Builder, m: Mixer, count: float) -> None:
    """Multi-head latent attention (DeepSeek-V2, section 2.1): cached latent of kv_rank + rope."""
    hidden, tp = b.model.hidden, b.plan.tensor
    heads = m.heads / tp
    nope, rope, rank = m.head_dim, m.rope_dim, m.kv_rank
    v_dim = m.v_head_dim or nope
    q_width = heads * (nope + rope)
    # The down projections are small and replicated on every tensor rank.
    b.gemm("latent down projection", "attention", count, m.q_rank + rank + rope, hidden)
    b.gemm("query up projection", "attention", count, q_width, m.q_rank or hidden)
    b.stream("rope and cache write", "attention", count, q_width + rank + rope, q_width + rank)
    if m.index_topk:
        add_indexer(b, m, count)
        add_sparse_attention(b, m, count, heads, v_dim)
    else:
        _mla_prefill(b, m, count, heads, v_dim)
        decode = _mla_decode if b.plan.absorbed_mla else _mla_expanded_decode
        decode(b, m, count, heads, v_dim)
    b.gemm("output projection", "attention", count, hidden, heads * v_dim)
    _row_parallel_end(b, "attention", count)


def _mla_prefill(b: Builder, m: Mixer, count: float, heads: float, v_dim: int) -> None:
    nope, rope, rank, act = m.head_dim, m.rope_dim, m.kv_rank, b.activation_bytes
    b.gemm("key/value up projection", "attention", count, heads * (nope + v_dim), rank,
           rows="prefill_tokens")  # fmt: skip
    b.add(
        name="attention (prefill)", part="attention", kind="mla_prefill", count=count,
        flop={"pairs_prefill:0": 2.0 * heads * (nope + rope + v_dim)},
        read={
            "kv_prefill:0": heads * (nope + rope + v_dim) * act,
            "prefill_tokens": heads * (nope + rope) * act,
        },
        written={"prefill_tokens": heads * v_dim * act},
        rate=b.format_of("activations"),
        shape=AttentionShape(heads=heads, kv_heads=heads, head_dim=nope + rope, v_head_dim=v_dim),
    )  # fmt: skip


def _mla_decode(b: Builder, m: Mixer, count: float, heads: float, v_dim: int) -> None:
    nope, rope, rank, act = m.head_dim, m.rope_dim, m.kv_rank, b.activation_bytes
    n_heads = round(heads)
    b.gemm("query absorption", "attention", count, rank, nope,
           rows="decode_tokens", batch=n_heads)  # fmt: skip
    b.add(
        name="attention (decode)", part="attention", kind="mla_decode", count=count,
        flop={"pairs_decode:0": 2.0 * heads * (2 * rank + rope)},
        read={"kv_decode:0": (rank + rope) * b.kv_bytes,
              "decode_tokens": heads * (rank + rope) * act},
        written={"decode_tokens": heads * rank * act},
        rate=b.format_of("activations"),
        shape=AttentionShape(heads=heads, kv_heads=1, head_dim=rank + rope, v_head_dim=rank),
    )  # fmt: skip
    b.gemm("value up projection", "attention", count, v_dim, rank,
           rows="decode_tokens", batch=n_heads)  # fmt: skip


def _mla_expanded_decode(b: Builder, m: Mixer, count: float, heads: float, v_dim: int) -> None:
    """Keys and values of the whole context are expanded at every step."""
    nope, rope, rank = m.head_dim, m.rope_dim, m.kv_rank
    expand: Coefficients = {"kv_decode:0": 2.0 * rank * heads * (nope + v_dim)}
    width = heads * (nope + v_dim) * b.activation_bytes
    b.add(
        name="latent expansion (decode)", part="attention", kind="stream", count=count,
        flop=expand, read={"kv_decode:0": (rank + rope) * b.kv_bytes},
        written={"kv_decode:0": width}, rate=b.format_of("activations"),
    )  # fmt: skip
    _attention_core(b, m, count, heads, heads, nope + rope, v_dim)


def _state_update(
    b: Builder, name: str, count: float, heads: float, key_dim: int, value_dim: int
) -> None:
    """Recurrent state of heads x key_dim x value_dim in fp32, read and written per sequence.

    Per token and head: one rank-1 update and one read-out, 2 x 2 key_dim value_dim FLOP; the
    gated delta rule adds one more product. Prompts run in chunks and touch the state once a
    chunk (Yang et al. 2024, Gated Linear Attention, section 4).
    """
    state, chunk = heads * key_dim * value_dim, 64
    act = b.activation_bytes
    io = heads * (2 * key_dim + value_dim) * act
    per_token = 6.0 * state
    # Inside a chunk, scores against the chunk's other tokens.
    intra = 2.0 * heads * chunk / 2 * (key_dim + value_dim)
    b.add(
        name=name, part="attention", kind="scan", count=count,
        flop={"tokens": per_token, "prefill_tokens": intra},
        read={"sequences": 4.0 * state, "prefill_tokens": 4.0 * state / chunk, "tokens": io},
        written={"sequences": 4.0 * state, "prefill_tokens": 4.0 * state / chunk,
                 "tokens": heads * value_dim * act},
        rate=b.format_of("activations"),
    )  # fmt: skip


def _linear(b: Builder, m: Mixer, count: float) -> None:
    """Linear attention with a matrix state (Lightning attention, gated DeltaNet)."""
    hidden, tp = b.model.hidden, b.plan.tensor
    v_heads, k_heads = m.heads / tp, (m.kv_heads or m.heads) / tp
    v_dim = m.v_head_dim or m.head_dim
    qk, value = 2 * k_heads * m.head_dim, v_heads * v_dim
    gates = (value if m.gated_output else 0) + (2 * v_heads if m.conv else 0)
    b.gemm("qkv and gate projection", "attention", count, qk + value + gates, hidden)
    if m.conv:
        b.stream("short convolution", "attention", count, qk + value, qk + value,
                 flop=2.0 * m.conv * (qk + value))  # fmt: skip
    _state_update(b, "linear attention", count, v_heads, m.head_dim, v_dim)
    b.stream("output norm and gate", "attention", count, 2 * value, value)
    b.gemm("output projection", "attention", count, hidden, value)
    _row_parallel_end(b, "attention", count)


def _ssm(b: Builder, m: Mixer, count: float) -> None:
    """State-space layer in the Mamba-2 shape (Dao and Gu 2024, section 8)."""
    hidden, tp = b.model.hidden, b.plan.tensor
    heads = m.heads / tp
    inner = heads * m.head_dim
    bc = 2 * max(1, m.groups / tp) * m.state
    b.gemm("input projection", "attention", count, 2 * inner + bc + heads, hidden)
    if m.conv:
        b.stream("short convolution", "attention", count, inner + bc, inner + bc,
                 flop=2.0 * m.conv * (inner + bc))  # fmt: skip
    _state_update(b, "state-space scan", count, heads, m.state, m.head_dim)
    b.stream("output norm and gate", "attention", count, 2 * inner, inner)
    b.gemm("output projection", "attention", count, hidden, inner)
    _row_parallel_end(b, "attention", count)


def _simplicial(b: Builder, m: Mixer, count: float) -> None:
    """2-simplicial attention (Roy et al. 2025, "Fast and Simplex"): trilinear scores.

    Each query attends to window x window2 key pairs; a score and its value product take
    (3 + 3) head_dim FLOP-pairs' worth of work, 6 head_dim FLOP per triple.
    """
    hidden, tp = b.model.hidden, b.plan.tensor
    heads, kv_heads = m.heads / tp, b.plan.kv_heads_per_rank(m.kv_heads)
    act, w1, w2 = b.activation_bytes, float(m.window), float(m.window2)
    q_width, kv_width = heads * m.head_dim, 4 * kv_heads * m.head_dim
    b.gemm("qkv projection", "attention", count, q_width + kv_width, hidden)
    b.stream("rope and cache write", "attention", count, q_width + kv_width, q_width + kv_width)
    per_key = kv_heads * m.head_dim * b.kv_bytes
    # Two keys and two values are cached; each pair of windows is read once per query tile.
    b.add(
        name="2-simplicial attention", part="attention", kind="stream", count=count,
        flop={f"pairs_prefill:{m.window}": 6.0 * heads * m.head_dim * w2,
              f"pairs_decode:{m.window}": 6.0 * heads * m.head_dim * w2},
        read={f"kv_decode:{m.window}": 2 * per_key, f"kv_decode:{m.window2}": 2 * per_key,
              f"kv_prefill:{int(w1)}": 2 * per_key, f"kv_prefill:{m.window2}": 2 * per_key,
              "tokens": q_width * act},
        written={"tokens": q_width * act}, rate=b.format_of("activations"),
    )  # fmt: skip
    b.gemm("output projection", "attention", count, hidden, q_width)
    _row_parallel_end(b, "attention", count)


def _convolution(b: Builder, m: Mixer, count: float) -> None:
    """A convolution over positions as an implicit GEMM of `groups` blocks.

    groups = 1 is dense, groups = channels depthwise. For a partial convolution (Chen et al. 2023,
    "Run, Don't Walk") `heads` channels are convolved and the rest pass through untouched.
    """
    channels = m.heads or b.model.hidden
    per_group = channels // m.groups
    taps = m.kernel
    act = b.activation_bytes
    weights = channels * per_group * taps * b.format_of("weights").bytes_per_value
    matrix = m.groups == 1
    b.add(
        name="convolution", part="attention", kind="stream", count=count,
        flop={"tokens": 2.0 * channels * per_group * taps / m.stride},
        read={"one": weights, "tokens": channels * act},
        written={"tokens": channels * act / m.stride}, weight_bytes=weights,
        rate=b.format_of("weights") if matrix else None,
    )  # fmt: skip


_BUILDERS = {
    "attention": _attention,
    "mla": _mla,
    "linear": _linear,
    "ssm": _ssm,
    "simplicial": _simplicial,
    "conv": _convolution,
}
