"""Activations that layers keep for their backward pass, by what divides them.

Follows Korthikanti et al. 2022: per layer and token, what tensor parallelism splits, what only
sequence parallelism splits, and the attention scores. With MHA, a feed-forward of four times the
width, dropout and unfused attention the sums are their equations,

    no parallelism           s b h (34 + 5 a s / h)                  (1)
    tensor                   s b h (10 + 24/t + 5 a s / (h t))       (2)
    tensor and sequence      s b h / t (34 + 5 a s / h)              (4)
    selective recomputation  s b h 34 / t                            (6)

Besides them: single modules computed again, inputs of narrow products kept narrow, and layers whose
activations wait in host memory.

References
----------
Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from .. import parameters
from ..cost.features import Array
from ..formats import load_format
from ..models import FeedForward, Mixer, ModelSpec
from .plan import RECOMPUTE, Plans, Recipe, TrainingJob

EAGER_NORM_BYTES = 3.0
"""Bytes per value that unfused norms keep besides their inputs; fitted on eager runs."""
LAYER_PARTS = ("split", "experts", "replicated", "whole", "sharded", "sent", "routed", "scores",
               "gathered", "second")  # fmt: skip
SELECTIVE, ALTERNATE, FULL = (RECOMPUTE.index(k) for k in RECOMPUTE[1:])


@frozen(kw_only=True)
class LayerShape:
    """One average layer, and what is outside the layers.

    Attributes
    ----------
    split, experts, replicated : float
        Parameters per layer that tensor parallelism splits, expert parallelism splits, neither.
    embedding, head, tied
        Parameters outside.
    whole, sharded, sent, routed : float
        Activation bytes per token and layer: kept whole without sequence parallelism, split by
        tensor parallelism, inputs and outputs of the routed experts, and inside of them.
    scores : float
        Bytes per token and key (unfused attention), split by tensor parallelism.
    gathered : float
        Bytes per token, counted in `whole`, of inputs that sequence parallelism gathers, where
        products keep them gathered.
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
    sent: float
    routed: float
    scores: float
    gathered: float
    second: float
    largest: float


def layer_shape(model: ModelSpec, recipe: Recipe) -> LayerShape:
    """The average layer of a model under a recipe."""
    total: dict[str, float] = dict.fromkeys(LAYER_PARTS, 0.0)
    largest = 0.0
    for g in model.layers:
        parts = parameters.layer_parameters(g, model.hidden)
        kept = _activations(model.hidden, g.mixer, g.ffn, recipe)
        # Parallel attention and feed-forward share one norm and its output.
        kept["whole"] -= 4.0 * model.hidden if g.parallel else 0.0
        values = {
            "split": parts["mixer"] + parts["dense"], "experts": parts["experts"],
            "replicated": parts["norms"], "second": _second(model.hidden, g.mixer, g.ffn, recipe),
            **kept,
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


def _activations(hidden: int, m: Mixer, f: FeedForward, recipe: Recipe) -> dict[str, float]:
    """Bytes per token of one layer, by what divides them, and per token and key."""
    kept: dict[str, float] = dict.fromkeys(LAYER_PARTS[3:9], 0.0)
    eager = 0.0 if recipe.compiled else EAGER_NORM_BYTES * hidden
    # Inputs of the norms.
    kept["whole"] = eager + 2.0 * 2 * hidden if m.kind != "none" else 2.0 * hidden
    if m.kind != "none":
        _attention(kept, hidden, m, recipe)
    if f.kind != "none":
        _feed_forward(kept, hidden, f, recipe)
    return kept


def input_bytes(recipe: Recipe) -> float:
    """Bytes per value that products keep of their inputs."""
    return load_format(recipe.format).bytes_per_value if recipe.narrow_activations else 2.0


def _keep_input(kept: dict[str, float], hidden: int, recipe: Recipe) -> None:
    """Count the norm's output that the first products of half a layer read, and dropout's mask."""
    read = 0.0 if "layernorm" in recipe.recompute_modules else input_bytes(recipe) * hidden
    kept["whole"] += read + (hidden if recipe.dropout else 0.0)
    if recipe.gathered_inputs:
        kept["gathered"] += read


def _spread(whole: float, gathered: float, plans: Plans) -> Array:
    """Bytes per token of what sequence parallelism splits, but for inputs kept gathered."""
    tp = plans.tensor.astype(float)
    return np.where(plans.sequence_parallel, (whole - gathered) / tp + gathered, whole)


def _attention(kept: dict[str, float], hidden: int, m: Mixer, recipe: Recipe) -> None:
    narrow, again = input_bytes(recipe), recipe.recompute_modules
    v_dim = m.v_head_dim or m.head_dim
    kv = m.heads if m.kind in ("mla", "linear", "ssm") else m.kv_heads
    qk_dim = m.head_dim + (m.rope_dim if m.kind == "mla" else 0)
    _keep_input(kept, hidden, recipe)
    if m.kind == "mla":
        kept["whole"] += (2.0 + narrow) * (m.q_rank + m.kv_rank + m.rope_dim)
    if m.kind != "mla" or "mla_up_proj" not in again:
        kept["sharded"] += 2.0 * (m.heads * qk_dim + kv * (qk_dim + v_dim))
    # Fused attention keeps its output in 16 bits, the output projection its own narrow copy.
    kept["sharded"] += (2.0 + (narrow if narrow < 2.0 else 0.0)) * m.heads * v_dim
    if recipe.fused_attention:
        kept["sharded"] += 4.0 * m.heads
    elif m.kind == "attention":
        # Softmax output and dropout output in 16 bits; the mask in 8.
        kept["scores"] = m.heads * (2.0 + (3.0 if recipe.dropout else 0.0))


def _feed_forward(kept: dict[str, float], hidden: int, f: FeedForward, recipe: Recipe) -> None:
    narrow, again = input_bytes(recipe), recipe.recompute_modules
    if f.kind != "moe":
        gates = _kept_outputs(f.kind, recipe)
        _keep_input(kept, hidden, recipe)
        if "mlp" not in again:
            kept["sharded"] += (2.0 * gates + narrow) * f.inner
        return
    gates = _kept_outputs(f.expert_kind, recipe)
    # The router reads the norm's output in 16 bits.
    kept["whole"] += 2.0 * hidden + 4.0 * f.experts
    if "moe" in again:
        return
    if "shared_experts" not in again:
        kept["sharded"] += (2.0 * gates + narrow) * f.shared_inner
    # Dispatched inputs, outputs before they are combined, and what is between.
    copies = f.experts_per_token * recipe.imbalance
    kept["sent"] = copies * (narrow + 2.0) * (f.latent or hidden)
    act = 0.0 if "moe_act" in again else narrow
    kept["routed"] = copies * (2.0 * gates + act) * f.inner


def _kept_outputs(kind: str, recipe: Recipe) -> float:
    """Outputs of a feed-forward's products that are kept, counting an activated gate as another.

    Unfused, the gate's activation is kept for the product beside it.
    """
    if kind != "gated":
        return 1.0
    return 2.0 if recipe.compiled else 3.0


def _second(hidden: int, m: Mixer, f: FeedForward, recipe: Recipe) -> float:
    """Bytes per token that alternate recomputation keeps of one layer."""
    v_dim = m.v_head_dim or m.head_dim
    core = 2.0 * m.heads * v_dim
    projections = 2.0 * (m.heads * m.head_dim + m.kv_heads * (m.head_dim + v_dim)) + core
    gates = 2 if f.kind == "gated" else 1
    eager = 0.0 if recipe.compiled else EAGER_NORM_BYTES * hidden
    return eager + core + 0.5 * (projections + 2.0 * (gates * f.inner + m.heads * v_dim))


def kept_bytes(job: TrainingJob, recipe: Recipe, plans: Plans) -> tuple[Array, Array]:
    """Bytes a layer keeps per micro-batch under the plan's recomputation, and one recomputed whole.

    Korthikanti et al. 2022, equations 1 to 6.
    """
    s = layer_shape(job.model, recipe)
    tokens = plans.micro_batch * job.sequence_tokens / plans.context
    tp = plans.tensor.astype(float)
    whole = _spread(s.whole, s.gathered, plans)
    keys = np.where(plans.recompute == SELECTIVE, 0.0, s.scores * job.sequence_tokens)
    routed = _routed(s.sent, s.routed, plans)
    kept = whole + s.sharded / tp + keys / tp + routed
    inputs = 2.0 * s.hidden / np.where(plans.sequence_parallel, tp, 1.0)
    second = inputs + s.second / tp + routed / 2.0
    kept = np.where(plans.recompute == ALTERNATE, np.minimum(second, kept), kept)
    return tokens * np.where(plans.recompute == FULL, inputs, kept), tokens * inputs


def _routed(sent: float, inside: float, plans: Plans) -> Array:
    """Bytes per token of the routed experts on one rank.

    With sequence parallelism a rank sends its own share of the tokens, and ranks that split an
    expert gather theirs.
    """
    tp, etp = plans.tensor.astype(float), plans.expert_tensor.astype(float)
    sp = plans.sequence_parallel.astype(bool)
    return sent * np.where(sp, etp / tp, 1.0) + inside * np.where(sp, 1.0 / tp, 1.0 / etp)


def whole_layer_bytes(job: TrainingJob, recipe: Recipe, plans: Plans) -> Array:
    """Bytes one whole layer holds while it is computed again."""
    s = layer_shape(job.model, recipe)
    tp = plans.tensor.astype(float)
    whole = _spread(s.whole, s.gathered, plans)
    tokens = plans.micro_batch * job.sequence_tokens / plans.context
    keys = s.scores * job.sequence_tokens
    return tokens * (whole + (s.sharded + keys) / tp + _routed(s.sent, s.routed, plans))


def backward_bytes(job: TrainingJob, recipe: Recipe, plans: Plans) -> Array:
    """Gradients that live at once where the widest feed-forward runs backward.

    Of its activation and of the one or two outputs it was made from, in 16 bits.
    """
    tp = plans.tensor.astype(float)
    tokens = plans.micro_batch * job.sequence_tokens / plans.context
    most = np.zeros(len(plans))
    for f in (g.ffn for g in job.model.layers):
        routed = f.kind == "moe"
        gated = (f.expert_kind if routed else f.kind) == "gated"
        values = (3.0 if gated else 2.0) * f.inner
        if routed:
            inside = values * f.experts_per_token * recipe.imbalance
            most = np.maximum(most, _routed(0.0, inside, plans))
        else:
            most = np.maximum(most, values / tp)
    return 2.0 * tokens * most


def activation_modules(job: TrainingJob, recipe: Recipe, plan: Plans) -> list[dict[str, float]]:
    """Bytes that one layer of each kind keeps per micro-batch, by module, under one plan.

    Layers recomputed whole keep their input alone.
    """
    tp, sp = float(plan.tensor[0]), float(plan.sequence_parallel[0])
    tokens = float(plan.micro_batch[0] * job.sequence_tokens / plan.context[0])
    spread = tp if sp else 1.0
    rows = []
    for g in job.model.layers:
        none = FeedForward(kind="none")
        first = _activations(job.model.hidden, g.mixer, none, recipe)
        both = _activations(job.model.hidden, g.mixer, g.ffn, recipe)
        rest = {k: both[k] - first[k] for k in both}
        keys = 0.0 if plan.recompute[0] == SELECTIVE else first["scores"] * job.sequence_tokens
        rows.append({
            "layers": float(g.count),
            "attention_and_norms": tokens * (
                _spread(first["whole"], first["gathered"], plan)[0]
                + (first["sharded"] + keys) / tp
            ),
            "feed_forward": tokens * (
                _spread(rest["whole"], rest["gathered"], plan)[0] + rest["sharded"] / tp
            ),
            "routed_experts": tokens * float(_routed(rest["sent"], rest["routed"], plan)[0]),
            "input_alone": tokens * 2.0 * job.model.hidden / spread,
        })  # fmt: skip
    return rows


def stage_activation_bytes(
    job: TrainingJob, recipe: Recipe, plans: Plans, layers: Array
) -> Array:  # fmt: skip
    """Bytes a stage of `layers` layers keeps per micro-batch on its device."""
    kept, inputs = kept_bytes(job, recipe, plans)
    whole = np.minimum(plans.full_layers, layers)
    return layers * kept - whole * (kept - inputs) - away_layers(plans, layers) * kept


def away_layers(plans: Plans, layers: Array) -> Array:
    """Layers of a stage of `layers` layers whose activations wait in host memory."""
    return np.minimum(plans.offload_layers, np.maximum(layers - plans.full_layers, 0.0))


def away_bytes(job: TrainingJob, recipe: Recipe, plans: Plans, layers: Array) -> Array:
    """Bytes per micro-batch that a stage sends to host memory and fetches again."""
    return away_layers(plans, layers) * kept_bytes(job, recipe, plans)[0]
