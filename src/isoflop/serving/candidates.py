"""Serving configurations: which exist, which can work at all, and what the closed form says."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from attrs import evolve, frozen

from ..cost.engines import Engine
from ..cost.features import Batch
from ..cost.memory import MemoryPolicy, cache_bytes, memory_use
from ..cost.shared import Shared
from ..cost.step import StepModel
from ..errors import InvalidInput, InvalidPlan, IsoflopError
from ..hardware import Accelerator, Cluster
from ..models import ModelSpec
from ..plans import Formats, Plan
from ..units import show_bytes
from .server import Server
from .slo import Promise
from .transfer import transfer_s

SEQUENCES = (8, 16, 32, 64, 128, 256, 512, 1024)
"""Batch limits tried."""
TOKENS = (512, 2048, 8192)
"""Token budgets of a step tried."""
HEADROOM = 0.95
"""Share of an instance's capacity that a stable queue may use in the closed form."""
SHARES = (2, 4)
"""Instances per device tried for models that leave most of it free."""


@frozen(kw_only=True)
class Load:
    """Traffic in the closed form: rate and mean lengths.

    Attributes
    ----------
    requests_per_s, prompt, output : float
        Means; prompt is what is left to compute after prefix hits.
    context : float
        Mean cached tokens of a decoding sequence.
    longest : int
        Tokens of the longest request.
    whole : float
        Mean prompt with its prefix, whose cache a split sends; 0: as `prompt`.
    """

    requests_per_s: float
    prompt: float
    output: float
    context: float
    longest: int
    whole: float = 0.0


@frozen(kw_only=True, eq=False)
class Candidate:
    """One configuration and what the closed form says of it.

    Attributes
    ----------
    replicas : int
        Fewest instances that carry the load within the promises.
    usd_per_hour : float
        Price of the devices used; device count where no price is known.
    tpot_s, ttft_s : float
        Mean estimates.
    prefills : int
        Of the replicas, those that only compute prompts and send their cache to the others; 0
        where every replica does both.
    """

    step: StepModel
    max_sequences: int
    max_tokens: int
    share: int
    replicas: int
    batch: float
    tpot_s: float
    ttft_s: float
    usd_per_hour: float
    prefills: int = 0

    @property
    def devices(self) -> int:
        """Devices in use."""
        return math.ceil(self.replicas / self.share) * self.step.plan.devices

    @property
    def decodes(self) -> int:
        """Replicas that decode."""
        return self.replicas - self.prefills

    def with_replicas(self, replicas: int, prefills: int = 0) -> Candidate:
        """The same configuration on more replicas."""
        hosts = math.ceil(self.replicas / self.share)
        price = self.usd_per_hour / hosts * math.ceil(replicas / self.share)
        return evolve(self, replicas=replicas, prefills=prefills, usd_per_hour=price)

    def server(self, **options: Any) -> Server:
        """As something to simulate."""
        return Server(
            step=self.step, max_sequences=self.max_sequences, max_tokens=self.max_tokens,
            share=self.share, **options,
        )  # fmt: skip

    def describe(self) -> str:
        """Short text for people."""
        f = self.step.plan.formats
        share = f", {self.share} per device" if self.share > 1 else ""
        split = f" ({self.prefills} prefill, {self.decodes} decode)" if self.prefills else ""
        return (
            f"{self.replicas} x {self.step.plan.describe()}{split} on {self.devices} "
            f"{self.step.device.id}, weights {f.stored}, cache {f.kv}{share}, "
            f"{self.max_sequences} sequences, {self.max_tokens} tokens per step"
        )

    def short(self) -> str:
        """One line of a table: replicas (prefill + decode), device, plan and formats."""
        f = self.step.plan.formats
        share = f" ({self.share}/device)" if self.share > 1 else ""
        plan = self.step.plan.describe().replace("single device", "tp1")
        count = f"{self.prefills}+{self.decodes}" if self.prefills else f"{self.replicas}"
        return f"{count} x {self.step.device.id} {plan}{share}, {f.stored}, kv {f.kv}"


@frozen(kw_only=True)
class Rejected:
    """A configuration that cannot work: what it is, why, and by how much.

    Attributes
    ----------
    excess : float
        What is needed over what there is, above 1; infinity where no number says how far it is.
    """

    what: str
    why: str
    kind: str
    excess: float = math.inf


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
    curve = _Curve.of(step, load)
    found: list[Candidate] = []
    rejected: list[Rejected] = []
    evaluated = 0
    small = use.weights_bytes < 0.2 * use.usable_bytes and plan.devices == 1
    for share in (1, *(SHARES if small else ())):
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


def _most_sequences(step: StepModel, load: Load, weights: float, share: int) -> int:
    policy = MemoryPolicy()
    device = step.device.memory.capacity_bytes - policy.driver_bytes
    free = policy.utilization * device / share - weights - policy.reserve_bytes / share
    each = cache_bytes(step.model, step.plan, 1, load.context, policy.block_tokens)
    return max(0, int(free / each) * step.plan.data) if each > 0 else 10**9


@frozen(kw_only=True, eq=False, slots=False)
class _Curve:
    """Step seconds of one instance over its batch, and of a mean prompt."""

    step: StepModel
    load: Load
    batches: Any
    decode_s: Any
    busy_s: Any
    prompt_s: float

    @classmethod
    def of(cls, step: StepModel, load: Load) -> _Curve:
        b = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024], float)
        plan = step.plan
        whole = min(max(load.prompt, 1.0), 8192.0)
        together = max(1.0, np.floor(8192.0 / whole)) * plan.data
        # Priced in one go: the decoding batches, and behind them a step full of mean prompts.
        prompts = np.append(np.zeros(len(b)), together / plan.data)
        *decode, full = step.step_s(Batch(
            decode_sequences=np.append(b / (plan.data * plan.pipeline), 0.0),
            decode_context=load.context, prefill_sequences=prompts,
            prefill_tokens=np.where(prompts > 0, whole, 0.0),
        ))  # fmt: skip
        decode, share = np.array(decode), float(full) / together
        fixed = step.engine.scale(step.device.family) * (1 - step.engine.captured) * step.launch_s
        idle = step.engine.overhead_s(b, step.model.depth) + fixed
        busy = decode - np.minimum(idle, 0.5 * decode)
        engine = step.engine.prefill_scale
        return cls(step=step, load=load, batches=b, decode_s=decode, busy_s=busy,
                   prompt_s=engine * share * max(load.prompt, 1.0) / whole)  # fmt: skip

    def candidate(
        self, running: int, share: int, promises: Sequence[Promise], fleet: int
    ) -> Candidate | Rejected:
        """The fewest replicas at which the closed form keeps every promise."""
        if running < 1:
            return Rejected(what="", why="no room for the cache of one sequence", kind="memory")
        load, plan = self.load, self.step.plan
        most = fleet // plan.devices * share
        contended = np.maximum(self.decode_s, share * self.busy_s)
        decode = np.interp(running, self.batches, contended)
        # A device-second serves prompts or decoding; what is left of it bounds the rate.
        need = load.requests_per_s * (self.prompt_s * share + load.output * decode / running)
        least = max(1, math.ceil(need / HEADROOM))
        if least > most:
            needed = math.ceil(least / share) * plan.devices
            why = (f"needs {needed} devices for {load.requests_per_s:.3g} requests/s, the fleet "
                   f"has {fleet}")  # fmt: skip
            return Rejected(what="", why=why, kind="capacity", excess=needed / fleet)
        worst, tpot, ttft = "", 0.0, 0.0
        for replicas in range(least, most + 1):
            rate = load.requests_per_s / replicas
            batch, tpot, ttft = self._settle(rate, running, share, contended)
            worst = _broken(promises, tpot, ttft)
            if not worst:
                price = self.step.device.price
                each = 1.0 if price is None else price.on_demand_usd_per_hour
                return Candidate(
                    step=self.step, max_sequences=running, max_tokens=TOKENS[-1], share=share,
                    replicas=replicas, batch=batch, tpot_s=tpot, ttft_s=ttft,
                    usd_per_hour=math.ceil(replicas / share) * plan.devices * each,
                )  # fmt: skip
        return Rejected(what="", why=worst, kind="latency", excess=_excess(promises, tpot, ttft))

    @cached_property
    def sent_s(self) -> float:
        """Seconds to send the cache of a mean prompt to another instance."""
        return float(transfer_s(self.step, np.array(self.load.whole or self.load.prompt)))

    def split(self, running: int, promises: Sequence[Promise], fleet: int) -> Candidate | Rejected:
        """The fewest prefill and decode instances at which the closed form keeps every promise.

        The pools are independent: prompts see each other alone, decoding sees no prompts, and the
        cache travels once per request.
        """
        if running < 1:
            return Rejected(what="", why="no room for the cache of one sequence", kind="memory")
        load, plan = self.load, self.step.plan
        most = fleet // plan.devices
        sent = self.sent_s
        slowest = np.interp(running, self.batches, self.decode_s)
        prefills = max(1, math.ceil(load.requests_per_s * self.prompt_s / HEADROOM))
        decodes = max(1, math.ceil(load.requests_per_s * load.output * slowest / running
                                   / HEADROOM))  # fmt: skip
        worst, kind, tpot, ttft = "", "capacity", 0.0, 0.0
        while prefills + decodes <= most:
            busy = min(load.requests_per_s / prefills * self.prompt_s, 0.98)
            ttft = self.prompt_s * (1.0 + busy / (1.0 - busy) / 2.0) + self.step.engine.arrival_s
            batch, tpot = self._batch(load.requests_per_s / decodes, running, self.decode_s, 0.0)
            tpot += sent / max(load.output - 1.0, 1.0)
            worst = _broken(promises, tpot, ttft)
            if not worst:
                price = self.step.device.price
                each = 1.0 if price is None else price.on_demand_usd_per_hour
                return Candidate(
                    step=self.step, max_sequences=running, max_tokens=TOKENS[-1], share=1,
                    replicas=prefills + decodes, prefills=prefills, batch=batch, tpot_s=tpot,
                    ttft_s=ttft, usd_per_hour=(prefills + decodes) * plan.devices * each,
                )  # fmt: skip
            kind = "latency"
            if _broken(promises, 0.0, ttft):
                prefills += 1
            else:
                decodes += 1
        needed = (prefills + decodes) * plan.devices
        why = worst or (f"needs {needed} devices for {load.requests_per_s:.3g} requests/s, the "
                        f"fleet has {fleet}")  # fmt: skip
        excess = _excess(promises, tpot, ttft) if worst else needed / fleet
        return Rejected(what="", why=why, kind=kind, excess=excess)

    def _batch(
        self, rate: float, running: int, decode_s: Any, stolen: float
    ) -> tuple[float, float]:
        """Batch and TPOT at `rate` requests/s: batch = rate x life, by bisection."""
        output = self.load.output
        xs, ys = self.batches.tolist(), decode_s.tolist()
        low, high = 0.01, float(running)
        for _ in range(30):
            middle = math.sqrt(low * high)
            tpot = _interpolated(middle, xs, ys) / (1.0 - stolen)
            low, high = (middle, high) if rate * output * tpot > middle else (low, middle)
        return high, _interpolated(high, xs, ys) / (1.0 - stolen)

    def _settle(
        self, rate: float, running: int, share: int, decode_s: Any
    ) -> tuple[float, float, float]:
        """Batch, TPOT and TTFT at `rate` requests/s."""
        stolen = min(rate * self.prompt_s * share, 0.98)
        high, tpot = self._batch(rate, running, decode_s, stolen)
        wait = stolen / (1.0 - stolen) * self.prompt_s * share / 2.0
        extra = self.step.engine.arrival_s
        return high, tpot, self.prompt_s + wait + tpot + extra


def _interpolated(x: float, xs: list[float], ys: list[float]) -> float:
    """`np.interp` of one number, ten times as fast: a search asks for thousands of single ones."""
    if x >= xs[-1]:
        return ys[-1]
    j = bisect_right(xs, x) - 1
    if j < 0:
        return ys[0]
    return (ys[j + 1] - ys[j]) / (xs[j + 1] - xs[j]) * (x - xs[j]) + ys[j]


def _broken(promises: Sequence[Promise], tpot: float, ttft: float) -> str:
    """The promise that mean estimates already break, or nothing.

    A percentile is above the mean for these skewed times, so a mean above the limit is a proof
    within the model's error, and everything else goes to the simulator.
    """
    for p in promises:
        value = {"tpot": tpot, "ttft": ttft}.get(p.metric)
        if value is not None and value > p.limit_s:
            return f"{p.metric} would be {value * 1e3:.1f} ms on average, above {p}"
    return ""


def _excess(promises: Sequence[Promise], tpot: float, ttft: float) -> float:
    """The mean estimates over their limits, the worst of them."""
    values = {"tpot": tpot, "ttft": ttft}
    return max((values[p.metric] / p.limit_s for p in promises if p.metric in values),
               default=math.inf)  # fmt: skip


def preference(c: Candidate) -> tuple[float, bool, float]:
    """Cheapest first; at one price what needs no second pool, then the faster."""
    return c.usd_per_hour, c.prefills > 0, c.tpot_s


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
