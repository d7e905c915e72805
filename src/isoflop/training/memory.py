"""Peak memory of one device, by part, for any number of plans at once.

Activations are counted in `isoflop.training.activations`; here stand weights, gradients, optimizer
state, micro-batches in flight, logits and what lives for a moment.

References
----------
Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020.
"""

from __future__ import annotations

import numpy as np
from attrs import evolve

from ..cost.features import Array
from ..hardware import Accelerator, Cluster
from ..models import Mixer
from .activations import (
    ALTERNATE,
    FULL,
    LayerShape,
    backward_bytes,
    kept_bytes,
    layer_shape,
    stage_activation_bytes,
    whole_layer_bytes,
)
from .chunks import flying_at
from .plan import Plans, Recipe, TrainingJob
from .stages import DUALPIPE, GPIPE, corner_stages, in_flight_at, layers_at, uneven

CONTEXT_BYTES = 1.2e9
"""Driver context, communicator buffers and kernels' workspaces of a CUDA process; estimate."""
FRAGMENTATION = 0.03
"""Share of the capacity kept free for the allocator's fragmentation; estimate."""
SP_COPIES = 5.0
"""Gathered inputs, outputs and gradients of a layer that live at once with sequence sharding."""
OFFLOAD_BUFFERS = 2.0
"""Layers of one micro-batch that stay on the device beside those in host memory."""
HOST_SHARE = 0.8
"""Share of host memory that a run may take."""
DEFAULT_HOST_BYTES = 128e9
"""Host memory per device where the catalog names no host; estimate."""
FETCHED_LAYERS = 2.0
"""Layers whose own shards are on their way from or to the host: the one after next, and the last
one's gradients."""
PREFETCHED_LAYERS = 2.0
"""Layers whose weights are gathered at once under ZeRO-3: the running one and the next."""
PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "transient", "reserve")


def layer_activation_bytes(job: TrainingJob, recipe: Recipe, plans: Plans) -> Array:
    """Bytes one average layer of the fullest stage keeps per micro-batch."""
    layers = stage_layers(job, recipe, plans)
    return stage_activation_bytes(job, recipe, plans, layers) / layers


def in_flight(plans: Plans, micro_batches: Array) -> Array:
    """Micro-batches whose activations the first stage holds at once, in whole stages."""
    return in_flight_at(plans, micro_batches, np.zeros_like(plans.pipeline))


def micro_batches(job: TrainingJob, plans: Plans) -> Array:
    """Micro-batches per step and replica."""
    return job.global_batch / (plans.data * plans.micro_batch).astype(float)


def stage_parameters(
    job: TrainingJob, recipe: Recipe, plans: Plans, layers: Array | None = None
) -> tuple[Array, Array]:
    """Parameters on one device: dense (data ranks share), experts; of the fullest stage or one of
    `layers` layers."""
    s = layer_shape(job.model, recipe)
    tp = plans.tensor.astype(float)
    layers = stage_layers(job, recipe, plans) if layers is None else layers
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
    indivisible = (depth % chunks) > 0
    out = np.where(
        indivisible & ((depth + 2) % chunks == 0), balanced, np.minimum(even, depth)
    )  # fmt: skip
    own = uneven(plans)
    if own.any():
        part = plans.take(own)
        corners = corner_stages(part, job.model.depth)
        out[own] = np.max([layers_at(part, job.model.depth, s) for s in corners], axis=0)
    return out


def memory_parts(job: TrainingJob, recipe: Recipe, plans: Plans) -> dict[str, Array]:
    """Peak bytes of the fullest device by part (see PARTS); arrays of the plans' shape."""
    count = micro_batches(job, plans)
    layers = stage_layers(job, recipe, plans)
    flying = in_flight_at(plans, count, np.zeros_like(plans.pipeline))
    parts = _parts(job, recipe, plans, layers, flying)
    # The last stage holds fewer micro-batches in flight, and their logits.
    fewer = flying - in_flight_at(plans, count, plans.pipeline - 1)
    each = stage_activation_bytes(job, recipe, plans, layers)
    # Gathered keys and values are gone by the time of the loss.
    held = logit_bytes(job, recipe, plans, count) - gathered_keys_bytes(job, recipe, plans)
    parts["logits"] = np.maximum(0.0, held - fewer * each)
    parts["transient"] = parts["transient"] + _beyond_logits(job, recipe, plans, parts["logits"])
    own = uneven(plans)
    if own.any():
        worst = _uneven_parts(job, recipe, plans.take(own))
        for name, values in worst.items():
            parts[name][own] = values
    return parts


def least_bytes(job: TrainingJob, recipe: Recipe, plans: Plans, zero: int) -> Array:
    """Bytes that no recomputation and no ZeRO stage up to `zero` takes a layout below.

    All layers recomputed, everything sharded as far as the stage goes, weights away where the
    recipe lets them, and nothing transient.
    """
    ranks = plans.data * plans.context
    away = (plans.pipeline == 1) & (zero == 3) & (recipe.offload_weights != "none")
    lean = evolve(
        plans, recompute=np.full_like(plans.zero, FULL), shard=ranks,
        zero=np.where((ranks > 1) | away, zero, 0), full_layers=np.zeros_like(plans.zero),
        offload_weights=away.astype(int),
    )  # fmt: skip
    parts = memory_parts(job, recipe, lean)
    kept = 0.0 if recipe.offload_activations else parts["activations"]
    return total_bytes(parts) - parts["transient"] - parts["activations"] + kept


def fewest_layers(
    job: TrainingJob, recipe: Recipe, plans: Plans, available: float, *, away: bool = False
) -> Array:  # fmt: skip
    """Fewest layers of every stage to recompute whole for a plan to fit; 0 where none under all do.

    With `away`, to keep in host memory instead, all of them if need be.

    For plans of even stages whose recomputation is none or selective. Memory falls along a line
    with each layer, steeper on the first stage than on the last, which holds logits.
    """
    ones = np.ones_like(plans.tensor)
    one = evolve(plans, offload_layers=ones) if away else evolve(plans, full_layers=ones)
    parts = memory_parts(job, recipe, one)
    standing = total_bytes(parts) - parts["activations"] - parts["logits"]
    standing = standing - _beyond_logits(job, recipe, plans, parts["logits"])
    count = micro_batches(job, plans)
    layers = stage_layers(job, recipe, plans)
    kept, inputs = kept_bytes(job, recipe, plans)
    inputs = np.zeros_like(inputs) if away else inputs
    first = in_flight_at(plans, count, np.zeros_like(plans.pipeline))
    last = in_flight_at(plans, count, plans.pipeline - 1)
    fewest = np.ones(len(plans))
    logits = logit_bytes(job, recipe, plans, count) - gathered_keys_bytes(job, recipe, plans)
    within = backward_bytes(job, recipe, plans)
    for flying, more in ((first, within), (last, np.maximum(logits, within))):
        over = standing + more + flying * layers * kept - available
        with np.errstate(divide="ignore", invalid="ignore"):
            need = np.ceil(over / (flying * (kept - inputs)) - 1e-9)
        fewest = np.maximum(fewest, np.where(kept > inputs, need, np.inf))
    most = layers if away else layers - 1.0
    return np.where((fewest <= most) & ~uneven(plans), fewest, 0.0).astype(np.int32)


def usable_host_bytes(cluster: Cluster | None) -> float:
    """What a device's process may take of its host's memory."""
    if cluster is None or cluster.host is None:
        return HOST_SHARE * DEFAULT_HOST_BYTES
    return HOST_SHARE * cluster.host.memory_bytes / cluster.devices_per_node


def logit_bytes(job: TrainingJob, recipe: Recipe, plans: Plans, count: Array) -> Array:
    """Bytes of the logits that the last stage holds at once."""
    s = layer_shape(job.model, recipe)
    tokens = plans.micro_batch * job.sequence_tokens / plans.context
    held = np.where((plans.schedule == GPIPE) & (plans.pipeline > 1), count, 1.0)
    return held * recipe.logit_bytes * tokens * s.vocab / plans.tensor


def stage_parts(
    job: TrainingJob, recipe: Recipe, plans: Plans, stage: Array
) -> dict[str, Array]:  # fmt: skip
    """Peak bytes by part of one stage, counted from 0, of each plan.

    Stages of plans that do not say how many layers theirs have count as the fullest.
    """
    count = micro_batches(job, plans)
    own = layers_at(plans, job.model.depth, stage).astype(float)
    layers = np.where(uneven(plans), own, stage_layers(job, recipe, plans))
    flying = flying_at(plans, job.model.depth, count, stage)
    parts = _parts(job, recipe, plans, layers, flying)
    # Under DualPipe the first device holds the last stage of the other direction.
    last = (stage == plans.pipeline - 1) | ((plans.schedule == DUALPIPE) & (stage == 0))
    logits = logit_bytes(job, recipe, plans, count) - gathered_keys_bytes(job, recipe, plans)
    parts["logits"] = np.where(last, np.maximum(logits, 0.0), 0.0)
    parts["transient"] = parts["transient"] + _beyond_logits(job, recipe, plans, parts["logits"])
    return parts


def _beyond_logits(job: TrainingJob, recipe: Recipe, plans: Plans, logits: Array) -> Array:
    """What gradients inside a feed-forward take beyond logits, which are gone by then."""
    return np.maximum(backward_bytes(job, recipe, plans) - logits, 0.0)


def _uneven_parts(job: TrainingJob, recipe: Recipe, plans: Plans) -> dict[str, Array]:
    """Parts of the fullest stage where stages differ."""
    best: dict[str, Array] = {}
    most = np.full(len(plans), -1.0)
    for stage in corner_stages(plans, job.model.depth):
        parts = stage_parts(job, recipe, plans, stage)
        total = total_bytes(parts)
        best = {k: np.where(total > most, v, best.get(k, 0.0)) for k, v in parts.items()}
        most = np.maximum(most, total)
    return best


def _parts(
    job: TrainingJob, recipe: Recipe, plans: Plans, layers: Array, flying: Array
) -> dict[str, Array]:  # fmt: skip
    """Bytes by part of a stage of `layers` layers with `flying` micro-batches; no logits yet."""
    s = layer_shape(job.model, recipe)
    dense, experts = stage_parameters(job, recipe, plans, layers)
    tp = plans.tensor.astype(float)
    ranks = plans.shard.astype(float)
    expert_ranks = np.maximum(ranks * tp / (plans.expert * plans.expert_tensor), 1.0)

    def shared(per_parameter: float, from_stage: int) -> Array:
        split = plans.zero >= from_stage
        return per_parameter * (
            dense / np.where(split, ranks, 1.0) + experts / np.where(split, expert_ranks, 1.0)
        )

    # Sharded master copies on the device are the weights: what is gathered is cast from them.
    master = (plans.zero == 3) & (recipe.master_bytes > 0) & (not recipe.state_is_away)
    away = plans.offload_weights > 0
    left = away | gradients_leave(recipe, plans)
    weights = np.where(master | away, 0.0, shared(2.0, 3))
    state = np.zeros(len(plans)) if recipe.state_is_away else shared(recipe.state_bytes, 1)
    tokens = plans.micro_batch * job.sequence_tokens / plans.context
    # DualPipe keeps two stages' weights on every device (DeepSeek-V3, table 2).
    weights = weights * np.where(plans.schedule == DUALPIPE, 2.0, 1.0)
    return {
        "weights": weights,
        "gradients": np.where(
            left, 0.0, shared(0.0 if recipe.adapters else recipe.gradient_bytes, 2)
        )
        + (0.0 if recipe.adapters else recipe.gradient_exchange.error_bytes) * (dense + experts),
        "optimizer": state,
        "activations": stage_activation_bytes(job, recipe, plans, layers) * flying,
        "logits": np.zeros(len(plans)),
        "transient": _transient(job, recipe, plans, s, tokens, layers),
        "reserve": np.zeros(len(plans)),
    }


def gathered_bytes(
    job: TrainingJob, recipe: Recipe, plans: Plans, layers: Array | None = None
) -> Array:
    """Weights gathered in a forward pass under ZeRO-3; 0 for others."""
    s = layer_shape(job.model, recipe)
    tp = plans.tensor.astype(float)
    per_layer = s.split / tp + s.replicated + s.experts / (plans.expert * plans.expert_tensor)
    outside = np.where(plans.pipeline == 1, s.embedding + s.head, max(s.embedding, s.head)) / tp
    dense, experts = stage_parameters(job, recipe, plans, layers)
    passing = 2.0 * (PREFETCHED_LAYERS * per_layer + outside)
    if not recipe.look_ahead:
        passing = 2.0 * np.maximum(s.largest / tp, outside)
    held = np.where(plans.pipeline > 1, 2.0 * (dense + experts), passing)
    return np.where(plans.zero == 3, held, 0.0)


def _transient(
    job: TrainingJob, recipe: Recipe, plans: Plans, s: LayerShape, tokens: Array, layers: Array
) -> Array:
    """Gathered weights under ZeRO-3, the layer being recomputed, gradients before they are added.

    The gradient of the largest matrix stands in fp32 and of the head in 16 bits until each is
    added to the accumulated gradient.
    """
    tp = plans.tensor.astype(float)
    per_layer = s.split / tp + s.replicated + s.experts / (plans.expert * plans.expert_tensor)
    # A pipeline keeps gathered weights and unreduced gradients between micro-batches.
    dense, experts = stage_parameters(job, recipe, plans, layers)
    # With no more micro-batches than stages one chunk is done, and its gradients are reduced,
    # before the next one's backward pass begins; chunks that differ count as whole stages.
    turns = (plans.virtual > 1) & (micro_batches(job, plans) <= plans.pipeline) & ~uneven(plans)
    whole_chunks = (dense + experts) / np.where(turns, plans.virtual, 1.0)
    gathered = gathered_bytes(job, recipe, plans, layers) + np.where(
        plans.pipeline > 1, recipe.gradient_bytes * whole_chunks,
        2.0 * (per_layer if recipe.look_ahead else s.largest / tp),
    )  # fmt: skip
    again = whole_layer_bytes(job, recipe, plans)
    again = np.where((plans.recompute >= ALTERNATE) | (plans.full_layers > 0), again, 0.0)
    # One layer leaves or comes back while another runs.
    away = OFFLOAD_BUFFERS * kept_bytes(job, recipe, plans)[0]
    again = again + np.where(plans.offload_layers > 0, away, 0.0)
    pending = (4.0 * s.largest + 2.0 * s.head) / tp
    # Sequence parallelism gathers the inputs of both halves of a layer, and their gradients.
    again = again + np.where(plans.sequence_parallel, SP_COPIES * 2.0 * s.hidden * tokens, 0.0)
    again = again + _stage_buffers(job, recipe, plans, tokens)
    again = again + gathered_keys_bytes(job, recipe, plans)
    again = again + _fetched_bytes(recipe, plans, dense, experts, layers)
    return again + np.where(plans.zero == 3, gathered, pending)


def _fetched_bytes(
    recipe: Recipe, plans: Plans, dense: Array, experts: Array, layers: Array
) -> Array:
    """Own shards of weights that come from the host ahead of need, and of gradients that leave."""
    owners = np.maximum(plans.shard * plans.tensor / (plans.expert * plans.expert_tensor), 1.0)
    own = (dense / plans.shard + experts / owners) / layers
    away = plans.offload_weights > 0
    leaving = (away | gradients_leave(recipe, plans)) & (not recipe.adapters)
    each = np.where(away, 2.0, 0.0) + np.where(leaving, recipe.gradient_bytes, 0.0)
    return FETCHED_LAYERS * each * own


def gradients_leave(recipe: Recipe, plans: Plans) -> Array:
    """Whether reduced gradients leave, layer by layer, for the host that holds their optimizer.

    From ZeRO 2 on, whose ranks keep no others, and where nothing is sharded (ZeRO-Offload, Ren et
    al. 2021). A pipeline keeps gradients between micro-batches.
    """
    reduced = (plans.zero >= 2) | (plans.shard == 1)
    return (recipe.offload != "none") & reduced & (plans.pipeline == 1)


def gathered_keys_bytes(job: TrainingJob, recipe: Recipe, plans: Plans) -> Array:
    """Keys and values of whole sequences that one layer holds where context ranks gather them."""
    if recipe.context != "all-gather":
        return np.zeros(len(plans))
    width = max(key_value_width(g.mixer, recipe) for g in job.model.layers)
    tokens = plans.micro_batch * float(job.sequence_tokens)
    return np.where(plans.context > 1, 2.0 * tokens * width / plans.tensor, 0.0)


def key_value_width(m: Mixer, recipe: Recipe) -> float:
    """Values per token of a layer's keys and values, as context ranks exchange them."""
    if m.kind != "attention":
        return 0.0
    heads = m.heads if recipe.repeated_keys else m.kv_heads
    return float(heads * (m.head_dim + (m.v_head_dim or m.head_dim)))


def query_width(m: Mixer) -> float:
    """Values per token of a layer's queries and attention outputs."""
    if m.kind != "attention":
        return 0.0
    return float(m.heads * (m.head_dim + (m.v_head_dim or m.head_dim)))


def _stage_buffers(job: TrainingJob, recipe: Recipe, plans: Plans, tokens: Array) -> Array:
    """Inputs, gradients and outputs that libraries keep at stage borders for all micro-batches."""
    if not recipe.stage_buffers:
        return np.zeros(len(plans))
    split = np.where(plans.sequence_parallel, plans.tensor, 1).astype(float)
    one = 2.0 * job.model.hidden * tokens / split
    count = micro_batches(job, plans) * plans.virtual
    return np.where(plans.pipeline > 1, 3.0 * count * one, 0.0)


def total_bytes(parts: dict[str, Array]) -> Array:
    """Sum over the parts."""
    return np.sum(list(parts.values()), axis=0)


def usable_bytes(device: Accelerator) -> float:
    """What a training process can allocate on a device."""
    return device.memory.capacity_bytes * (1.0 - FRAGMENTATION) - CONTEXT_BYTES
