"""Peak memory of one device, by part, for any number of plans at once.

Activations follow Korthikanti et al. 2022: per layer and token, what tensor parallelism splits,
what only sequence parallelism splits, and the attention scores. With MHA, a feed-forward of four
times the width, dropout and unfused attention the sums are their equations,

    no parallelism           s b h (34 + 5 a s / h)                  (1)
    tensor                   s b h (10 + 24/t + 5 a s / (h t))       (2)
    tensor and sequence      s b h / t (34 + 5 a s / h)              (4)
    selective recomputation  s b h 34 / t                            (6)

References
----------
Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022.
Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from .. import parameters
from ..cost.features import Array
from ..hardware import Accelerator
from ..models import FeedForward, Mixer, ModelSpec
from .plan import RECOMPUTE, SCHEDULES, Plans, Recipe, TrainingJob

CONTEXT_BYTES = 1.2e9
"""Driver context, communicator buffers and kernels' workspaces of a CUDA process; estimate."""
FRAGMENTATION = 0.03
"""Share of the capacity kept free for the allocator's fragmentation; estimate."""
SP_COPIES = 5.0
"""Gathered inputs, outputs and gradients of a layer that live at once with sequence sharding."""
PREFETCHED_LAYERS = 2.0
"""Layers whose weights are gathered at once under ZeRO-3: the running one and the next."""
EAGER_NORM_BYTES = 3.0
"""Bytes per value that unfused norms keep besides their inputs; fitted on eager runs."""
SELECTIVE, ALTERNATE, FULL = (RECOMPUTE.index(k) for k in RECOMPUTE[1:])
PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "transient", "reserve")


@frozen(kw_only=True)
class LayerShape:
    """One average layer, and what is outside the layers.

    Attributes
    ----------
    split, experts, replicated : float
        Parameters per layer that tensor parallelism splits, expert parallelism splits, neither.
    embedding, head, tied
        Parameters outside.
    whole, sharded, routed : float
        Activation bytes per token and layer: kept whole without sequence parallelism, split by
        tensor parallelism, and of the routed experts.
    scores : float
        Bytes per token and key (unfused attention), split by tensor parallelism.
    second : float
        Bytes per token that alternate recomputation keeps, split by tensor parallelism: attention's
        output and half of the products' outputs.
    largest : float
        Parameters of the largest matrix of a layer.
    """

    depth: int
    hidden: int
    vocab: int
    split: float
    experts: float
    replicated: float
    embedding: float
    head: float
    tied: bool
    whole: float
    sharded: float
    routed: float
    scores: float
    second: float
    largest: float


def layer_shape(model: ModelSpec, recipe: Recipe) -> LayerShape:
    """The average layer of a model under a recipe."""
    total: dict[str, float] = dict.fromkeys(
        ("split", "experts", "replicated", "whole", "sharded", "routed", "scores", "second"), 0.0
    )
    largest = 0.0
    for g in model.layers:
        parts = parameters.layer_parameters(g, model.hidden)
        whole, sharded, routed, scores = _activations(model.hidden, g.mixer, g.ffn, recipe)
        values = {
            "split": parts["mixer"] + parts["dense"], "experts": parts["experts"],
            "replicated": parts["norms"], "whole": whole, "sharded": sharded, "routed": routed,
            "scores": scores, "second": _second(model.hidden, g.mixer, g.ffn, recipe),
        }  # fmt: skip
        for name, value in values.items():
            total[name] += g.count * value
        gated = 2 if g.ffn.kind == "gated" else 1
        largest = max(largest, model.hidden * float(gated * g.ffn.inner))
    table = model.vocab * (model.embedding_width or model.hidden)
    head = 0 if model.tied_embeddings or not model.head else table
    inside = sum(total[k] for k in ("split", "experts", "replicated"))
    return LayerShape(
        depth=model.depth, hidden=model.hidden, vocab=model.vocab if model.head else 0,
        embedding=model.parameters - inside - head, head=head, tied=model.tied_embeddings,
        largest=largest, **{k: v / model.depth for k, v in total.items()},
    )  # fmt: skip


def _activations(
    hidden: int, m: Mixer, f: FeedForward, recipe: Recipe
) -> tuple[float, float, float, float]:
    """Bytes per token of one layer: whole, split, routed, and per token and key."""
    mask = 1.0 if recipe.dropout else 0.0
    kept_twice = 0.0 if recipe.compiled else EAGER_NORM_BYTES * hidden
    whole = (
        kept_twice + 2.0 * 2 * hidden if m.kind != "none" else 2.0 * hidden
    )  # inputs of the norms
    sharded = routed = scores = 0.0
    if m.kind != "none":
        v_dim = m.v_head_dim or m.head_dim
        kv = m.heads if m.kind in ("mla", "linear", "ssm") else m.kv_heads
        qk_dim = m.head_dim + (m.rope_dim if m.kind == "mla" else 0)
        whole += 2.0 * hidden + mask * hidden
        if m.kind == "mla":
            whole += 2.0 * 2 * (m.q_rank + m.kv_rank + m.rope_dim)
        sharded += 2.0 * (m.heads * qk_dim + kv * (qk_dim + v_dim) + m.heads * v_dim)
        if recipe.fused_attention:
            sharded += 4.0 * m.heads
        elif m.kind == "attention":
            # Softmax output and dropout output in 16 bits; the mask in 8.
            scores = m.heads * (2.0 + (3.0 if recipe.dropout else 0.0))
    if f.kind in ("gated", "plain"):
        whole += 2.0 * hidden + mask * hidden
        sharded += 2.0 * f.inner * (3 if f.kind == "gated" else 2)
    elif f.kind == "moe":
        gates = 3 if f.expert_kind == "gated" else 2
        whole += 2.0 * hidden + 4.0 * f.experts
        sharded += 2.0 * f.shared_inner * gates
        # Dispatched inputs, expert activations and outputs before they are combined.
        routed = 2.0 * f.experts_per_token * (2 * (f.latent or hidden) + gates * f.inner)
    return whole, sharded, routed, scores


def _second(hidden: int, m: Mixer, f: FeedForward, recipe: Recipe) -> float:
    """Bytes per token that alternate recomputation keeps of one layer."""
    v_dim = m.v_head_dim or m.head_dim
    core = 2.0 * m.heads * v_dim
    projections = 2.0 * (m.heads * m.head_dim + m.kv_heads * (m.head_dim + v_dim)) + core
    gates = 2 if f.kind == "gated" else 1
    eager = 0.0 if recipe.compiled else EAGER_NORM_BYTES * hidden
    return eager + core + 0.5 * (projections + 2.0 * (gates * f.inner + m.heads * v_dim))


def layer_activation_bytes(job: TrainingJob, recipe: Recipe, plans: Plans) -> Array:
    """Bytes one average layer keeps per micro-batch, recomputation included (equations 1 to 6)."""
    s = layer_shape(job.model, recipe)
    tokens = plans.micro_batch * job.sequence_tokens / plans.context
    tp = plans.tensor.astype(float)
    whole = s.whole / np.where(plans.sequence_parallel, tp, 1.0)
    keys = np.where(plans.recompute == SELECTIVE, 0.0, s.scores * job.sequence_tokens)
    kept = whole + s.sharded / tp + keys / tp + s.routed / plans.expert_tensor
    inputs = 2.0 * s.hidden / np.where(plans.sequence_parallel, tp, 1.0)
    second = inputs + s.second / tp + s.routed / plans.expert_tensor / 2.0
    kept = np.where(plans.recompute == ALTERNATE, np.minimum(second, kept), kept)
    return tokens * np.where(plans.recompute == FULL, inputs, kept)


def in_flight(plans: Plans, micro_batches: Array) -> Array:
    """Micro-batches whose activations the first stage holds at once, in whole stages.

    GPipe keeps all; 1F1B at most one per stage (Narayanan et al. 2021); interleaving
    1 + (p-1)/(p v) times as many (Korthikanti et al. 2022, section 4.2.3); DualPipe p + 1
    (DeepSeek-V3, table 2).
    """
    p, v = plans.pipeline.astype(float), plans.virtual.astype(float)
    most = p * np.where(v > 1, 1.0 + (p - 1.0) / (p * v), 1.0)
    most = np.where(plans.schedule == SCHEDULES.index("dualpipe"), p + 1.0, most)
    most = np.where(plans.schedule == SCHEDULES.index("gpipe"), micro_batches, most)
    return np.minimum(most, micro_batches * np.where(v > 1, 1.0 + (p - 1.0) / (p * v), 1.0))


def micro_batches(job: TrainingJob, plans: Plans) -> Array:
    """Micro-batches per step and replica."""
    return job.global_batch / (plans.data * plans.micro_batch).astype(float)


def stage_parameters(job: TrainingJob, recipe: Recipe, plans: Plans) -> tuple[Array, Array]:
    """Parameters on one device of the fullest stage: dense (data ranks share), experts."""
    s = layer_shape(job.model, recipe)
    tp, layers = plans.tensor.astype(float), stage_layers(job, recipe, plans)
    outside = np.where(plans.pipeline == 1, s.embedding + s.head, max(s.embedding, s.head)) / tp
    dense = layers * (s.split / tp + s.replicated) + outside
    experts = layers * s.experts / (plans.expert * plans.expert_tensor)
    return dense, experts


def stage_layers(job: TrainingJob, recipe: Recipe, plans: Plans) -> Array:
    """Layers of the fullest stage."""
    depth = float(job.model.depth)
    chunks = (plans.pipeline * plans.virtual).astype(float)
    even = np.ceil(depth / chunks - 1e-9) * plans.virtual
    # Where layers do not divide, embedding and head each take a layer's place.
    balanced = np.ceil((depth + 2.0) / chunks - 1e-9) * plans.virtual
    uneven = (depth % chunks) > 0
    return np.where(uneven & ((depth + 2) % chunks == 0), balanced, np.minimum(even, depth))


def memory_parts(job: TrainingJob, recipe: Recipe, plans: Plans) -> dict[str, Array]:
    """Peak bytes of the fullest device by part (see PARTS); arrays of the plans' shape."""
    s = layer_shape(job.model, recipe)
    dense, experts = stage_parameters(job, recipe, plans)
    tp = plans.tensor.astype(float)
    ranks = plans.shard.astype(float)
    expert_ranks = np.maximum(ranks * tp / (plans.expert * plans.expert_tensor), 1.0)

    def shared(per_parameter: float, from_stage: int) -> Array:
        split = plans.zero >= from_stage
        return per_parameter * (
            dense / np.where(split, ranks, 1.0) + experts / np.where(split, expert_ranks, 1.0)
        )

    sharded_weights = recipe.master_bytes > 0
    weights = np.where((plans.zero == 3) & sharded_weights, 0.0, shared(2.0, 3))
    away = recipe.offload != "none" or recipe.adapters
    state = np.zeros(len(plans)) if away else shared(recipe.state_bytes, 1)
    layer = layer_activation_bytes(job, recipe, plans)
    flying = in_flight(plans, micro_batches(job, plans))
    layers = stage_layers(job, recipe, plans)
    tokens = plans.micro_batch * job.sequence_tokens / plans.context
    last = (plans.pipeline == 1) | (flying <= 1)
    logits = recipe.logit_bytes * tokens * s.vocab / tp
    logits = np.where(last, logits, np.maximum(0.0, logits - (flying - 1) * layers * layer))
    # DualPipe keeps two stages' weights on every device (DeepSeek-V3, table 2).
    weights = weights * np.where(plans.schedule == SCHEDULES.index("dualpipe"), 2.0, 1.0)
    return {
        "weights": weights,
        "gradients": shared(0.0 if recipe.adapters else recipe.gradient_bytes, 2),
        "optimizer": state,
        "activations": layer * layers * flying,
        "logits": logits,
        "transient": _transient(job, recipe, plans, s, tokens),
        "reserve": np.full(len(plans), 0.0),
    }


def _transient(
    job: TrainingJob, recipe: Recipe, plans: Plans, s: LayerShape, tokens: Array
) -> Array:
    """Gathered weights under ZeRO-3, the layer being recomputed, gradients before they are added.

    The gradient of the largest matrix stands in fp32 and of the head in 16 bits until each is
    added to the accumulated gradient.
    """
    tp = plans.tensor.astype(float)
    per_layer = s.split / tp + s.replicated + s.experts / (plans.expert * plans.expert_tensor)
    outside = np.where(plans.pipeline == 1, s.embedding + s.head, max(s.embedding, s.head)) / tp
    gathered = 2.0 * (PREFETCHED_LAYERS * per_layer + outside) + 2.0 * per_layer
    # A pipeline keeps gathered weights and unreduced gradients between micro-batches.
    dense, experts = stage_parameters(job, recipe, plans)
    kept = (2.0 + recipe.gradient_bytes) * (dense + experts)
    gathered = np.where(plans.pipeline > 1, kept, gathered)
    whole = s.whole / np.where(plans.sequence_parallel, tp, 1.0)
    again = tokens * (whole + s.sharded / tp + s.scores * job.sequence_tokens / tp
                      + s.routed / plans.expert_tensor)  # fmt: skip
    again = np.where(plans.recompute >= ALTERNATE, again, 0.0)
    pending = (4.0 * s.largest + 2.0 * s.head) / tp
    # Sequence parallelism gathers the inputs of both halves of a layer, and their gradients.
    again = again + np.where(plans.sequence_parallel, SP_COPIES * 2.0 * s.hidden * tokens, 0.0)
    return again + np.where(plans.zero == 3, gathered, pending)


def total_bytes(parts: dict[str, Array]) -> Array:
    """Sum over the parts."""
    return np.sum(list(parts.values()), axis=0)


def usable_bytes(device: Accelerator) -> float:
    """What a training process can allocate on a device."""
    return device.memory.capacity_bytes * (1.0 - FRAGMENTATION) - CONTEXT_BYTES
