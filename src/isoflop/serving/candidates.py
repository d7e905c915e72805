"""Serving configurations: which exist, which can work at all, and what the closed form says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from attrs import evolve

from ..cost.engines import Engine
from ..cost.features import Batch
from ..cost.memory import MemoryPolicy, MemoryUse, cache_bytes, memory_use
from ..cost.shared import Shared
from ..cost.step import StepModel
from ..errors import InvalidInput, InvalidPlan, IsoflopError
from ..hardware import Accelerator, Cluster
from ..models import ModelSpec
from ..plans import Formats, Plan
from ..units import show_bytes
from .curve import Candidate, Curve, Load, Rejected
from .slo import Promise

SEQUENCES = (8, 16, 32, 64, 128, 256, 512, 1024)
"""Batch limits tried."""
TOKENS = (512, 2048, 8192)
"""Token budgets of a step tried."""
SHARES = (2, 4)
"""Instances per device tried for models that leave most of it free."""


def plans(
    model: ModelSpec, devices: int, node: int, formats: Sequence[Formats], joined: int = 0
) -> Iterator[Plan | Rejected]:
    """Every way to lay one instance over at most `devices` devices.

    `node` devices share a host and `joined` of them fast links. Pipelines are tried where an
    instance outgrows those links: inside them a tensor degree as large has shorter steps.
    """
    sizes = [1 << k for k in range(devices.bit_length()) if 1 << k <= devices]
    moe = any(g.ffn.kind == "moe" for g in model.layers)
    for fmt in formats:
        for size in sizes:
            tensors = [t for t in sizes if t <= min(size, node)]
            for tensor in tensors:
                rest = size // tensor
                if rest > 1 and size > joined:
                    split = tensor if moe else 1
                    yield from _checked(model, Plan(tensor=tensor, pipeline=rest, expert=split,
                                                    formats=fmt))  # fmt: skip
                if rest > 1 and not moe:
                    continue  # dense models replicate instead
                experts = {1, size} if moe and size > 1 else {1}
                for expert in sorted(experts):
                    if rest > 1 and expert == 1:
                        continue
                    yield from _checked(model, Plan(tensor=tensor, data=rest, expert=expert,
                                                    formats=fmt))  # fmt: skip


def _checked(model: ModelSpec, plan: Plan) -> Iterator[Plan | Rejected]:
    try:
        plan.check(model)
    except InvalidPlan as error:
        yield Rejected(what=plan.describe(), why=str(error), kind="indivisible")
    else:
        yield plan


def formats_for(
    model: ModelSpec, device: Accelerator, weights: Sequence[str], caches: Sequence[str]
) -> list[Formats]:
    """Weight and cache formats to try.

    Where none is asked: the published format if it is narrower than 16 bits, else bf16 and what
    the device has units for.
    """
    rates = device.rates.dense_flop_per_s
    native = ["bf16", *(["fp8"] if "fp8" in rates else [])]
    narrow = Formats.for_model(model) != Formats()
    chosen = list(weights) or ([""] if narrow else native)
    kept = list(caches) or native
    return [Formats.for_model(model, w, kv=k) for w in chosen for k in kept]


def evaluate(
    model: ModelSpec, device: Accelerator, cluster: Cluster | None, engine: Engine, plan: Plan,
    load: Load, promises: Sequence[Promise], fleet: int, longest: int, split: bool = True,
    shared: Shared | None = None,
) -> tuple[list[Candidate], list[Rejected], int]:  # fmt: skip
    """Candidates of one plan over batch limits, budgets, shares and splits; what was evaluated.

    `split` also tries prompts and decoding on instances of their own; `shared` keeps what other
    plans of the search have in common with this one.
    """
    step = StepModel(model=model, plan=plan, device=device, cluster=cluster, engine=engine,
                     shared=shared)  # fmt: skip
    what = f"{plan.describe()}, weights {plan.formats.stored}, cache {plan.formats.kv}"
    policy = MemoryPolicy()
    use = memory_use(model, plan, device, step.operators, sequences=0, context=0, policy=policy)
    if use.usable_bytes <= use.total_bytes:
        why = (f"needs {show_bytes(use.total_bytes)} per device, has "
               f"{show_bytes(use.usable_bytes)}")  # fmt: skip
        excess = use.total_bytes / use.usable_bytes
        return [], [Rejected(what=what, why=why, kind="memory", excess=excess)], 1
    each = cache_bytes(model, plan, 1, float(longest))
    if each > use.usable_bytes - use.total_bytes:
        why = (f"one sequence of {longest:,} tokens needs a cache of {show_bytes(each)}, "
               f"{show_bytes(use.usable_bytes - use.total_bytes)} are free")  # fmt: skip
        excess = each / (use.usable_bytes - use.total_bytes)
        return [], [Rejected(what=what, why=why, kind="memory", excess=excess)], 1
    floor = bound_s(step, load)
    for p in promises:
        if p.metric in ("tpot", "itl") and floor[0] > p.limit_s:
            why = (f"even at full bandwidth one sequence takes {floor[0] * 1e3:.1f} ms per token, "
                   f"above {p}")  # fmt: skip
            return [], [Rejected(what=what, why=why, kind="bound", excess=floor[0] / p.limit_s)], 1
        if p.metric == "ttft" and floor[1] > p.limit_s:
            why = f"even at peak rate a mean prompt takes {floor[1] * 1e3:.0f} ms, above {p}"
            return [], [Rejected(what=what, why=why, kind="bound", excess=floor[1] / p.limit_s)], 1
    curve = Curve.of(step, load)
    found: list[Candidate] = []
    rejected: list[Rejected] = []
    evaluated = 0
    small = use.weights_bytes < 0.2 * use.usable_bytes and plan.devices == 1
    for share in (1, *(SHARES if small else ())):
        if load.whole_chains and not _holds(step, use, longest, share):
            continue
        most = _most_sequences(step, load, use.weights_bytes, share)
        # The closed form knows how many sequences run, not which budget a step has.
        made: dict[int, Candidate | Rejected] = {}
        for sequences in SEQUENCES:
            for tokens in TOKENS:
                evaluated += 1
                if sequences > max(8, 2 * most) or sequences > tokens * plan.data:
                    continue
                running = min(sequences, most)
                if running not in made:
                    made[running] = curve.candidate(running, share, promises, fleet)
                one = made[running]
                if isinstance(one, Rejected):
                    rejected.append(evolve(one, what=f"{what}, {sequences} sequences"))
                else:
                    found.append(evolve(one, max_sequences=sequences, max_tokens=tokens))
        if share > 1 or not split or 2 * plan.devices > fleet:
            continue
        made = {}
        for sequences in SEQUENCES:
            evaluated += 1
            if sequences > max(8, 2 * most) or sequences > TOKENS[-1] * plan.data:
                continue
            running = min(sequences, most)
            if running not in made:
                made[running] = curve.split(running, promises, fleet)
            one = made[running]
            if isinstance(one, Rejected):
                rejected.append(evolve(one, what=f"{what}, split, {sequences} sequences"))
            else:
                found.append(evolve(one, max_sequences=sequences))
    return found, rejected, evaluated


def bound_s(step: StepModel, load: Load) -> tuple[float, float]:
    """Roofline seconds of one decoding step alone and of one mean prompt: nothing is faster."""
    local = 1.0 / (step.plan.data * step.plan.pipeline)
    decode, prompt = step.ideal_s(Batch(  # both in one go
        decode_sequences=np.array([local, 0.0]), decode_context=load.context,
        prefill_sequences=np.array([0.0, local]), prefill_tokens=np.array([0.0, load.prompt]),
    ))  # fmt: skip
    return float(decode), float(prompt)


def _holds(step: StepModel, use: MemoryUse, longest: int, share: int) -> bool:
    """Whether each of `share` instances holds the longest request, pages in part empty.

    Where requests follow each other none can be left out.
    """
    block = MemoryPolicy().block_tokens
    free = (use.usable_bytes - use.reserve_bytes) / share
    free -= use.weights_bytes + use.activations_bytes
    return free > cache_bytes(step.model, step.plan, 1, float(longest + 2 * block))


def _most_sequences(step: StepModel, load: Load, weights: float, share: int) -> int:
    policy = MemoryPolicy()
    device = step.device.memory.capacity_bytes - policy.driver_bytes
    free = policy.utilization * device / share - weights - policy.reserve_bytes / share
    each = cache_bytes(step.model, step.plan, 1, load.context, policy.block_tokens)
    return max(0, int(free / each) * step.plan.data) if each > 0 else 10**9


def preference(c: Candidate) -> tuple[float, bool, float, float]:
    """Cheapest first; at one price what needs no second pool, then the faster.

    In a closed loop the faster is what serves more requests, so that each costs less.
    """
    return c.usd_per_hour, c.prefills > 0, -c.requests_per_s, c.tpot_s


def enumerate_candidates(
    model: ModelSpec, fleets: Sequence[tuple[Accelerator, int, Cluster | None]], engine: Engine,
    load: Load, promises: Sequence[Promise], weights: Sequence[str], caches: Sequence[str],
    longest: int, split: bool = True,
) -> tuple[list[Candidate], list[Rejected], int]:  # fmt: skip
    """All candidates of several fleets, cheapest first; all rejections; how many were evaluated."""
    found: list[Candidate] = []
    rejected: list[Rejected] = []
    evaluated = 0
    for device, count, cluster in fleets:
        node = cluster.devices_per_node if cluster else max(8, device.links.scale_up_domain)
        made: list[Formats] = []
        shared = Shared(device=device, cluster=cluster)
        for f in formats_for(model, device, weights, caches):
            try:
                device.matrix_rate(f.of("weights"))
                made.append(f)
            except IsoflopError as error:
                rejected.append(Rejected(what=f.weights, why=str(error), kind="format"))
        for plan in plans(model, count, node, made, device.links.scale_up_domain):
            if isinstance(plan, Rejected):
                evaluated += 1
                rejected.append(plan)
                continue
            some, bad, seen = evaluate(
                model, device, cluster, engine, plan, load, promises, count, longest, split, shared
            )
            found += some
            rejected += bad
            evaluated += seen
    if evaluated == 0:
        raise InvalidInput("The fleet is empty: name a device or a cluster (--on 8xh100-sxm).")
    found.sort(key=lambda c: (*preference(c), c.max_sequences))
    return found, rejected, evaluated
