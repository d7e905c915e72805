"""Exact parameter counts from the same shapes that the cost engine multiplies."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .models import FeedForward, LayerGroup, Mixer, ModelSpec


def count(model: ModelSpec) -> int:
    """All parameters of `model`, embeddings and stated extras included."""
    layers = sum(g.count * sum(layer_parameters(g, model.hidden).values()) for g in model.layers)
    return layers + _outside(model)


def count_active(model: ModelSpec) -> int:
    """Parameters one token of text uses: only the experts it visits, no vision tower."""
    total = count(model) - model.extra_parameters
    for group in model.layers:
        f = group.ffn
        if f.kind == "moe":
            routed = layer_parameters(group, model.hidden)["experts"]
            total -= group.count * (routed - routed // f.experts * f.experts_per_token)
    return total


def looked_up(model: ModelSpec) -> int:
    """Parameters of tables a token is only looked up in: token, position and segment tables.

    A tied token table does not count, because the head multiplies by it.
    """
    return _tables(model) - (_token_table(model) if model.tied_embeddings and model.head else 0)


def count_non_embedding(model: ModelSpec) -> int:
    """Parameters without token, position and segment tables, head matrix and stated extras."""
    head = 0 if model.tied_embeddings or not model.head else _token_table(model)
    return count(model) - _tables(model) - head - model.extra_parameters


def layer_parameters(group: LayerGroup, hidden: int) -> dict[str, int]:
    """Parameters of one layer by part.

    Parameters
    ----------
    group : LayerGroup
        Its `count` does not matter.
    hidden : int
        The model's hidden width.

    Returns
    -------
    dict of int
        mixer; dense (feed-forward, router and shared experts: used by every token); experts
        (all routed ones); norms.
    """
    dense, experts = _feed_forward(group.ffn, hidden)
    norms = group.norms * hidden * (2 if group.norm_bias else 1)
    return {
        "mixer": mixer_parameters(group.mixer, hidden), "dense": dense, "experts": experts,
        "norms": norms,
    }  # fmt: skip


def mixer_parameters(m: Mixer, hidden: int) -> int:
    """Parameters of one layer's token mixer."""
    return _MIXERS[m.kind](m, hidden)


def _attention(m: Mixer, hidden: int) -> int:
    v_dim = m.v_head_dim or m.head_dim
    q = m.heads * m.head_dim * (2 if m.gated_output else 1)
    k, v, out = m.kv_heads * m.head_dim, m.kv_heads * v_dim, m.heads * v_dim
    total = hidden * (q + k + v) + out * hidden
    total += (q + k + v) * m.qkv_bias + hidden * m.out_bias
    normed = 2 if m.qk_norm_width == "head" else m.heads + m.kv_heads
    return total + normed * m.head_dim * m.qk_norm + m.heads * m.sinks


def _mla(m: Mixer, hidden: int) -> int:
    v_dim = m.v_head_dim or m.head_dim
    q_width = m.heads * (m.head_dim + m.rope_dim)
    total = (hidden * m.q_rank + m.q_rank if m.q_rank else 0) + (m.q_rank or hidden) * q_width
    total += hidden * (m.kv_rank + m.rope_dim) + m.kv_rank
    total += m.kv_rank * m.heads * (m.head_dim + v_dim)
    if m.index_heads:
        # The indexer's queries, one shared key with its layer norm, and a weight per head.
        total += (m.q_rank or hidden) * m.index_heads * m.index_dim
        total += hidden * m.index_dim + 2 * m.index_dim + hidden * m.index_heads
    return total + m.heads * v_dim * hidden


def _linear(m: Mixer, hidden: int) -> int:
    """Gated DeltaNet where it has a short convolution, Lightning attention where not."""
    v_dim = m.v_head_dim or m.head_dim
    qk, value = 2 * (m.kv_heads or m.heads) * m.head_dim, m.heads * v_dim
    gate = value if m.gated_output else 0
    total = hidden * (qk + value + gate) + value * hidden
    if m.conv:
        # Two scalar gates per head, the short convolution, decay and step biases, head norm.
        total += hidden * 2 * m.heads + (qk + value) * m.conv + 2 * m.heads + v_dim
    else:
        total += value
    return total


def _ssm(m: Mixer, hidden: int) -> int:
    """Mamba-2, or Mamba-1 with Jamba's norms on step, B and C where there is a step rank."""
    if m.dt_rank:
        inner, small = m.heads * m.head_dim, m.dt_rank + 2 * m.state
        total = 3 * hidden * inner + inner * (m.conv + 1) + inner * small + small
        return total + (m.dt_rank + 1) * inner + inner * m.state + inner
    inner, bc = m.heads * m.head_dim, 2 * m.groups * m.state
    total = hidden * (2 * inner + bc + m.heads) + inner * hidden
    return total + (inner + bc) * (m.conv + 1) + 3 * m.heads + inner


def _simplicial(m: Mixer, hidden: int) -> int:
    q, kv = m.heads * m.head_dim, 4 * m.kv_heads * m.head_dim
    return hidden * (q + kv) + q * hidden


def _convolution(m: Mixer, hidden: int) -> int:
    channels = m.heads or hidden
    return channels * (channels // m.groups) * m.kernel


_MIXERS = {
    "attention": _attention,
    "mla": _mla,
    "linear": _linear,
    "ssm": _ssm,
    "simplicial": _simplicial,
    "conv": _convolution,
    "none": lambda m, hidden: 0,
}


def _feed_forward(f: FeedForward, hidden: int) -> tuple[int, int]:
    """Always-used and routed parameters of one layer's feed-forward part."""
    if f.kind == "none":
        return 0, 0
    # Mixture of depths scores every token with one vector.
    scorer = hidden if f.capacity < 1 else 0
    if f.kind != "moe":
        matrices = 3 if f.kind == "gated" else 2
        biases = (matrices - 1) * f.inner + hidden if f.bias else 0
        return matrices * hidden * f.inner + biases + scorer, 0
    matrices = 3 if f.expert_kind == "gated" else 2
    width = f.latent or hidden
    biases = (matrices - 1) * f.inner + width if f.bias else 0
    experts = f.experts * (matrices * width * f.inner + biases)
    dense = hidden * f.experts + f.experts * f.router_bias + hidden * f.shared_gate
    return dense + matrices * hidden * f.shared_inner + 2 * hidden * f.latent + scorer, experts


def _token_table(model: ModelSpec) -> int:
    return model.vocab * (model.embedding_width or model.hidden)


def _tables(model: ModelSpec) -> int:
    return _token_table(model) + (model.positions + model.token_types) * model.hidden


def _outside(model: ModelSpec) -> int:
    """Tables, head, final norm, vision patches, pooler and stated extras."""
    h = model.hidden
    total = _tables(model)
    if model.embedding_width not in (0, h):
        total += 2 * model.embedding_width * h
    if model.head and not model.tied_embeddings:
        total += _token_table(model)
    total += model.vocab * model.head_bias + (h + 1) * model.classes
    norm = h * (2 if any(g.norm_bias for g in model.layers) else 1)
    total += norm * (model.final_norm + model.embedding_norm)
    if model.vision is not None:
        v = model.vision
        total += (v.patch**2 * v.channels + 1) * h + v.tokens * h + v.extra_tokens * h
    total += (h + 1) * h if model.pooler else 0
    return total + model.extra_parameters
