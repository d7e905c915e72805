"""Memory of one device: weights with scales, cache with paging waste, activations, reserve."""

from __future__ import annotations

import math

from attrs import frozen

from ..errors import DoesNotFit
from ..hardware import Accelerator
from ..models import Mixer, ModelSpec
from ..plans import Plan
from ..units import show_bytes
from .operators.base import Operator
from .operators.latent import index_key_bytes, latent_bytes

STATE_BYTES = 4.0
"""Recurrent states of linear attention and state-space layers are kept in fp32."""


@frozen(kw_only=True)
class MemoryPolicy:
    """How an engine spends device memory.

    Attributes
    ----------
    utilization : float
        Share of the device an engine claims (vLLM's gpu_memory_utilization).
    driver_bytes : float
        What the driver keeps of the capacity before a framework sees it: a 24564 MiB board shows
        24081 MiB to programs.
    reserve_bytes : float
        Contexts, library workspaces and captured graphs, inside the claimed share.
    block_tokens : int
        Tokens of one page of the cache; a sequence wastes half a page on average.
    step_tokens : int
        Most tokens in one step, which sizes the activations.
    """

    utilization: float = 0.9
    driver_bytes: float = 480 * 2**20
    reserve_bytes: float = 0.75 * 2**30
    block_tokens: int = 16
    step_tokens: int = 8192


@frozen(kw_only=True)
class CacheLayer:
    """Cache of one layer group on one rank: bytes per token up to `window`, and per sequence."""

    layers: float
    token_bytes: float
    sequence_bytes: float
    window: int


@frozen(kw_only=True)
class MemoryUse:
    """Bytes on one device for a given number of sequences and context."""

    weights_bytes: float
    cache_bytes: float
    activations_bytes: float
    reserve_bytes: float
    capacity_bytes: float
    usable_bytes: float

    @property
    def total_bytes(self) -> float:
        """Everything but free memory."""
        return self.weights_bytes + self.cache_bytes + self.activations_bytes + self.reserve_bytes

    @property
    def fits(self) -> bool:
        """Whether the total is within what the engine may claim."""
        return self.total_bytes <= self.usable_bytes

    def rows(self) -> list[dict[str, float | str]]:
        """Plain records: part, bytes, share of the device."""
        parts = {
            "weights": self.weights_bytes,
            "cache": self.cache_bytes,
            "activations": self.activations_bytes,
            "reserve": self.reserve_bytes,
            "free": max(0.0, self.capacity_bytes - self.total_bytes),
        }
        return [{"part": k, "bytes": v, "share": v / self.capacity_bytes} for k, v in parts.items()]


def cache_layers(model: ModelSpec, plan: Plan) -> list[CacheLayer]:
    """What each layer group caches on one rank of the plan, for its share of the stages."""
    width = plan.formats.of("kv").bytes_per_value
    groups = []
    for group in model.layers:
        m = group.mixer
        token, sequence = _mixer_cache(m, plan, width)
        groups.append(
            CacheLayer(
                layers=group.count / plan.pipeline,
                token_bytes=token / plan.context,
                sequence_bytes=sequence,
                window=max(m.window, m.window2),
            )
        )
    return groups


def _mixer_cache(m: Mixer, plan: Plan, width: float) -> tuple[float, float]:
    """Bytes per cached token and per sequence of one layer."""
    if not m.causal or m.kind in ("none", "conv"):
        return 0.0, 0.0
    if m.kind == "mla":
        latent = latent_bytes(m.kv_rank, m.rope_dim, width, sparse=m.index_topk > 0)
        return latent + index_key_bytes(m.index_dim if m.index_topk else 0), 0.0
    if m.kind in ("attention", "simplicial"):
        per_head = m.head_dim + (m.v_head_dim or m.head_dim)
        tensors = 2 if m.kind == "simplicial" else 1
        return plan.kv_heads_per_rank(m.kv_heads) * per_head * width * tensors, 0.0
    value = m.head_dim if m.kind == "ssm" else (m.v_head_dim or m.head_dim)
    key = m.state if m.kind == "ssm" else m.head_dim
    state = m.heads / plan.tensor * key * value * STATE_BYTES
    convolved = m.conv * m.heads / plan.tensor * (key + value) * 2.0
    return 0.0, state + convolved


def cache_bytes(
    model: ModelSpec, plan: Plan, sequences: float, context: float, block_tokens: int = 1
) -> float:
    """Cache of `sequences` sequences of `context` tokens on one rank, half a page wasted each."""
    waste = (block_tokens - 1) / 2.0
    total = 0.0
    for layer in cache_layers(model, plan):
        held = min(context, layer.window) if layer.window else context
        total += layer.layers * ((held + waste) * layer.token_bytes + layer.sequence_bytes)
    return total * sequences


def weight_bytes(model: ModelSpec, plan: Plan, operators: list[Operator]) -> float:
    """Weights of one rank, block scales included; the table of a tied embedding counts once."""
    from_operators = sum(op.weight_bytes * op.count for op in operators if op.part != "head")
    head = sum(op.weight_bytes for op in operators if op.part == "head")
    width = plan.formats.of("head").bytes_per_value
    table = (model.vocab + model.positions) * model.hidden * width / plan.tensor
    if model.tied_embeddings:
        table = 0.0 if head else table
    # The first stage holds the table, the last the head; the fullest stage decides.
    ends = max(table, head) if plan.pipeline > 1 else table + head
    vision = model.extra_parameters * width / plan.tensor
    return from_operators / plan.pipeline + ends + vision


def activation_bytes(model: ModelSpec, plan: Plan, policy: MemoryPolicy) -> float:
    """Peak of intermediates in one step: the widest layer's input, output and inner tensors."""
    width = plan.formats.of("activations").bytes_per_value
    widest = 0.0
    for group in model.layers:
        f, m = group.ffn, group.mixer
        inner = f.inner / plan.tensor * (3 if f.kind == "gated" else 2)
        if f.kind == "moe":
            inner = f.experts_per_token * (3 * f.inner / plan.expert_tensor + model.hidden)
            inner = inner * plan.data / plan.expert
        mixer = (m.heads * 2 + m.kv_heads * 2) * (m.head_dim + m.rope_dim) / plan.tensor
        widest = max(widest, inner, mixer)
    tokens = policy.step_tokens
    logits = 256 * model.vocab / plan.tensor * 4.0
    return tokens * (4 * model.hidden + widest) * width + logits


def memory_use(
    model: ModelSpec,
    plan: Plan,
    device: Accelerator,
    operators: list[Operator],
    *,
    sequences: float,
    context: float,
    policy: MemoryPolicy = MemoryPolicy(),
) -> MemoryUse:
    """Bytes on one device with `sequences` sequences of `context` tokens each in its cache."""
    capacity = device.memory.capacity_bytes
    return MemoryUse(
        weights_bytes=weight_bytes(model, plan, operators),
        cache_bytes=cache_bytes(model, plan, sequences, context, policy.block_tokens),
        activations_bytes=activation_bytes(model, plan, policy),
        reserve_bytes=policy.reserve_bytes,
        capacity_bytes=capacity,
        usable_bytes=(capacity - policy.driver_bytes) * policy.utilization,
    )


def largest_batch(
    model: ModelSpec,
    plan: Plan,
    device: Accelerator,
    operators: list[Operator],
    context: float,
    policy: MemoryPolicy = MemoryPolicy(),
) -> int:
    """Most sequences of `context` tokens whose cache fits one rank's share of the batch."""
    empty = memory_use(model, plan, device, operators, sequences=0, context=0, policy=policy)
    free = empty.usable_bytes - empty.total_bytes
    each = cache_bytes(model, plan, 1, context, policy.block_tokens)
    if free <= 0:
        return 0
    return math.floor(free / each) if each > 0 else 10**9


def largest_context(
    model: ModelSpec,
    plan: Plan,
    device: Accelerator,
    operators: list[Operator],
    sequences: float,
    policy: MemoryPolicy = MemoryPolicy(),
) -> int:
    """Longest context, in tokens, at which `sequences` sequences fit; at most the model's own."""
    low, high = 0, model.max_context
    while low < high:
        middle = (low + high + 1) // 2
        use = memory_use(
            model, plan, device, operators, sequences=sequences, context=middle, policy=policy
        )
        low, high = (middle, high) if use.fits else (low, middle - 1)
    return low


def require_fit(model: ModelSpec, device: Accelerator, use: MemoryUse, plan: Plan) -> None:
    """Raise `DoesNotFit`, with needed and available bytes, if the weights alone do not fit."""
    needed = use.weights_bytes + use.activations_bytes + use.reserve_bytes
    if needed <= use.usable_bytes:
        return
    ranks = math.ceil(use.weights_bytes * plan.devices / (0.8 * use.usable_bytes))
    raise DoesNotFit(
        f"{model.name} does not fit {device.name} with {plan.describe()}: one device needs "
        f"{show_bytes(needed)} ({show_bytes(use.weights_bytes)} of it weights in "
        f"{plan.formats.stored}) and an engine can use {show_bytes(use.usable_bytes)} of its "
        f"{show_bytes(use.capacity_bytes)}. Spread it over about {ranks} devices (--plan tp...) "
        "or choose a narrower weight format (--weights).",
        needed_bytes=needed,
        available_bytes=use.usable_bytes,
    )
