"""Whether a plan goes together with its job, fleet and recipe; in sentences where it does not."""

from __future__ import annotations

from ..errors import InvalidPlan
from .plan import Recipe, TrainingJob, TrainingPlan
from .schedule import find_schedule
from .space import fits_tensor, shares_heads
from .stages import stage_list


def check_plan(job: TrainingJob, plan: TrainingPlan, count: int) -> None:
    """Raise `InvalidPlan`, with the numbers, if a plan does not divide job or fleet."""
    model = job.model
    if plan.devices != count:
        raise InvalidPlan(
            f"The plan {plan.describe()} takes {plan.devices} devices; the fleet has {count}."
        )
    if not fits_tensor(model, plan.tensor):
        heads = sorted({g.mixer.heads for g in model.layers if g.mixer.heads})
        raise InvalidPlan(
            f"A tensor degree of {plan.tensor} does not divide {model.name}: it has "
            f"{', '.join(map(str, heads))} heads. Use a divisor of its heads and widths."
        )
    chunks = plan.pipeline * plan.virtual
    # Embedding and head may stand alone, where they count as a layer each or a list says so.
    counted = model.depth % chunks > 0 and (model.depth + 2) % chunks == 0
    if chunks > model.depth and not (counted or plan.layers):
        raise InvalidPlan(
            f"{model.name} has {model.depth} layers, which {plan.pipeline} stages of "
            f"{plan.virtual} chunks cannot share. Lower pp or vpp."
        )
    share = plan.data * plan.micro_batch
    if job.global_batch % share:
        raise InvalidPlan(
            f"A global batch of {job.global_batch} sequences does not divide by data x "
            f"micro-batch = {plan.data} x {plan.micro_batch} = {share}. Change one of the three; "
            f"{_multiples(job.global_batch, share)} would do."
        )
    _check_pipeline(job, plan, job.global_batch // share)
    if plan.context > 1 and job.sequence_tokens % (2 * plan.context):
        raise InvalidPlan(
            f"Sequences of {job.sequence_tokens} tokens do not split into 2 x {plan.context} "
            "chunks for context parallelism. Use a power of two."
        )
    experts = {g.ffn.experts for g in model.layers if g.ffn.kind == "moe"}
    if plan.expert > 1 and not experts:
        raise InvalidPlan(f"{model.name} has no experts; leave ep{plan.expert} out.")
    for n in experts:
        ranks = plan.tensor * plan.context * plan.data
        if n % plan.expert or ranks % (plan.expert * plan.expert_tensor):
            raise InvalidPlan(
                f"{n} experts over ep{plan.expert} x etp{plan.expert_tensor} do not divide, or "
                f"not into the {ranks} ranks of tensor x context x data."
            )


def _multiples(batch: int, share: int) -> str:
    """The multiples of `share` next to a batch."""
    below = batch // share * share
    return f"{below} and {below + share}" if below else str(share)


def _check_pipeline(job: TrainingJob, plan: TrainingPlan, count: int) -> None:
    """Raise `InvalidPlan` where stages, layers and `count` micro-batches do not go together."""
    if plan.pipeline > 1:
        find_schedule(plan.schedule).check(plan.pipeline, count, plan.virtual)
    stages = stage_list(plan, job.model.depth)
    if plan.full_layers > max(stages):
        raise InvalidPlan(
            f"full{plan.full_layers} recomputes {plan.full_layers} layers of every stage, and the "
            f"fullest has {max(stages)}. Give fewer, or full for all of them."
        )
    if plan.full_layers + plan.offload_layers > max(stages):
        raise InvalidPlan(
            f"offload{plan.offload_layers} keeps the activations of {plan.offload_layers} layers "
            f"of every stage in host memory, and the fullest stage has "
            f"{max(stages) - plan.full_layers} to spare. Give fewer."
        )


def check_recipe(job: TrainingJob, recipe: Recipe, plan: TrainingPlan) -> None:
    """Raise `InvalidPlan` if a plan asks for what its recipe rules out."""
    if plan.zero >= 2 and not recipe.gradient_exchange.shards:
        raise InvalidPlan(
            f"Gradients exchanged as {recipe.exchange} stay whole on every rank; ZeRO {plan.zero} "
            "shards them. Use zero0, zero1, or another exchange such as 8bit."
        )
    if plan.pipeline > 1 and recipe.placement not in ("any", plan.placement):
        raise InvalidPlan(
            f"The plan {plan.describe()} places ranks {plan.placement}, and the recipe allows "
            f"{recipe.placement} alone. Name the same in both, or leave --placement out."
        )
    shared = plan.tensor * plan.context
    if plan.context > 1 and recipe.context == "ulysses" and not shares_heads(job.model, shared):
        heads = sorted({g.mixer.heads for g in job.model.layers if g.mixer.heads})
        raise InvalidPlan(
            f"Ulysses gives every rank of a sequence whole heads: {', '.join(map(str, heads))} "
            f"heads do not divide over tensor x context = {shared}. Lower one, or use ring."
        )
    if plan.offload_weights != "none" and not recipe.state_is_away:
        raise InvalidPlan(
            f"The plan keeps weights in {plan.offload_weights} memory and the optimizer's state, "
            "which has a copy of them, on the device. Add --offload cpu or nvme."
        )
