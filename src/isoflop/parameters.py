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
    """Parameters one token uses: of the routed experts only as many as it visits."""
    total = count(model)
    for group in model.layers:
        f = group.ffn
        if f.kind == "moe":
            routed = layer_parameters(group, model.hidden)["experts"]
            total -= group.count * (routed - routed // f.experts * f.experts_per_token)
    return total


def layer_parameters(group: LayerGroup, hidden: int) -> dict[str, int]:
    """Parameters of one layer by part: mixer, dense, experts (all routed ones), norms."""
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
    return total + 2 * m.head_dim * m.qk_norm + m.heads * m.sinks


def _mla(m: Mixer, hidden: int) -> int:
    v_dim = m.v_head_dim or m.head_dim
    q_width = m.heads * (m.head_dim + m.rope_dim)
    total = (hidden * m.q_rank + m.q_rank if m.q_rank else 0) + (m.q_rank or hidden) * q_width
    total += hidden * (m.kv_rank + m.rope_dim) + m.kv_rank
    total += m.kv_rank * m.heads * (m.head_dim + v_dim)
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
    if f.kind != "moe":
        matrices = 3 if f.kind == "gated" else 2
        biases = (matrices - 1) * f.inner + hidden if f.bias else 0
        return matrices * hidden * f.inner + biases, 0
    matrices = 3 if f.expert_kind == "gated" else 2
    biases = (matrices - 1) * f.inner + hidden if f.bias else 0
    experts = f.experts * (matrices * hidden * f.inner + biases)
    dense = hidden * f.experts + f.experts * f.router_bias + hidden * f.shared_gate
    return dense + matrices * hidden * f.shared_inner, experts


def _outside(model: ModelSpec) -> int:
    """Embeddings, head, final norm, vision patches, pooler and stated extras."""
    h = model.hidden
    total = model.vocab * (model.embedding_width or h) + (model.positions + model.token_types) * h
    if model.head and model.vocab and not model.tied_embeddings:
        total += model.vocab * h
    total += model.vocab * model.head_bias
    norm = h * (2 if any(g.norm_bias for g in model.layers) else 1)
    total += norm * (model.final_norm + model.embedding_norm)
    if model.vision is not None:
        v = model.vision
        total += (v.patch**2 * v.channels + 1) * h + v.tokens * h + v.extra_tokens * h
    total += (h + 1) * h if model.pooler else 0
    return total + model.extra_parameters
