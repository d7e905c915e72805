"""What bounds a model on a device: the answer behind `isoflop explain`."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import evolve, field, frozen

from ..cost.features import Batch
from ..cost.matrix import roofline_s
from ..cost.memory import MemoryPolicy, MemoryUse, largest_batch, largest_context, memory_use
from ..cost.power import at_clock, power_watts, settled, step_load
from ..cost.step import StepModel
from ..errors import InvalidInput
from ..plans import Phase
from .findings import Finding, rank_findings

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BOUNDS = ("compute", "memory", "network", "overhead")


@frozen(kw_only=True)
class Question:
    """What is asked: phase, batch and lengths.

    Attributes
    ----------
    phase : {"decode", "prefill", "train"}
    batch : int
        Sequences whose operators are listed one by one.
    context : int
        Cached tokens per sequence (decode) or prompt tokens (prefill, train).
    prior : int
        Cached tokens before the prompt's (a chunk with a prefix); prefill only.
    batches : tuple of int
        Sequences of the sweep.
    sustained : bool
        Whether the steps follow each other for seconds, so that clocks settle at the board's
        power limit; False: a short run at full clocks.
    """

    phase: Phase = "decode"
    batch: int = 1
    context: int = 2048
    prior: int = 0
    batches: tuple[int, ...] = BATCHES
    sustained: bool = False

    def __attrs_post_init__(self) -> None:
        for name in ("batch", "context"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"The {name} is {getattr(self, name)}; it must be at least 1.")
        if self.prior < 0:
            raise InvalidInput(f"The prior is {self.prior}; cached tokens are at least 0.")
        if self.prior and self.phase != "prefill":
            raise InvalidInput(
                f"{self.prior} prior tokens were given for the {self.phase} phase; they come "
                "before a prompt's chunk, so use --phase prefill."
            )

    def steps(self, sequences: Any) -> Batch:
        """The batch features of a step of `sequences` sequences."""
        n = np.asarray(sequences, float)
        if self.phase == "decode":
            return Batch(decode_sequences=n, decode_context=float(self.context))
        rows = n * self.context if self.phase == "train" else None
        return Batch(
            prefill_sequences=n,
            prefill_tokens=float(self.context),
            prefill_prior=float(self.prior),
            sampled_rows=rows,
        )


@frozen(kw_only=True)
class Explanation:
    """The whole answer, each part as plain records.

    Attributes
    ----------
    clocks : dict
        Seconds of the step at the question's batch in a short run and over and over, and the
        share of its highest clock that the device then holds.
    regimes : list of dict
        One per batch of the sweep: seconds, interval, bound, shares, distance to the limit.
    operators : list of dict
        One per operator at the question's batch.
    findings : tuple of Finding
        Ranked changes, best first.
    """

    step: StepModel
    question: Question
    clocks: dict[str, Any]
    regimes: list[dict[str, Any]]
    operators: list[dict[str, Any]]
    memory: MemoryUse
    largest_batch: int
    largest_context: int
    crossover: float | None
    findings: tuple[Finding, ...] = field(factory=tuple)

    def rows(self) -> list[dict[str, Any]]:
        """The sweep, one record per batch."""
        return self.regimes

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        s = self.step
        return {
            "model": s.model.id,
            "device": s.device.id,
            "plan": s.plan.describe(),
            "phase": self.question.phase,
            "batch": self.question.batch,
            "context": self.question.context,
            "engine": s.engine.id,
            "label": s.label(),
            "clocks": self.clocks,
            "regimes": self.regimes,
            "operators": self.operators,
            "memory": self.memory.rows(),
            "largest_batch": self.largest_batch,
            "largest_context": self.largest_context,
            "crossover_batch": self.crossover,
            "findings": [f.as_dict() for f in self.findings],
        }


def explain(step: StepModel, question: Question) -> Explanation:
    """Explain what bounds `step`, over the question's batches and in detail at its batch.

    Raises
    ------
    InvalidInput
        If decoding is asked of a model that only encodes.
    """
    if question.phase == "decode" and step.model.kind == "encoder":
        raise InvalidInput(
            f"{step.model.name} is an encoder: it has no decoding phase. Use --phase prefill."
        )
    context, operators = question.context, step.operators
    policy = MemoryPolicy()
    held = memory_use(
        step.model,
        step.plan,
        step.device,
        operators,
        sequences=question.batch / step.plan.data,
        context=context,
    )
    fits = largest_batch(step.model, step.plan, step.device, operators, context) * step.plan.data
    clocks, held_step = _clocks(step, question)
    answer = Explanation(
        step=held_step,
        question=question,
        clocks=clocks,
        regimes=_regimes(step, question, fits),
        operators=operator_rows(held_step, question),
        memory=held,
        largest_batch=fits,
        largest_context=largest_context(
            step.model, step.plan, step.device, operators, question.batch / step.plan.data, policy
        ),
        crossover=crossover_batch(step, question),
    )
    findings = rank_findings(held_step, question.steps, question.batch, context)
    return evolve(answer, findings=findings)


def _clocks(step: StepModel, question: Question) -> tuple[dict[str, Any], StepModel]:
    """A short run beside a long one at the question's batch, and the instance asked about."""
    batch = question.steps(question.batch / (step.plan.data * step.plan.pipeline))
    long = settled(step, batch)
    clocks = {
        "held": "sustained" if question.sustained else "burst",
        "sustained_clock": long.clock or 1.0,
        "burst_s": float(step.step_s(batch)),
        "sustained_s": float(long.step_s(batch)),
        "board_watts": step.device.power.board_watts,
    }
    return clocks, long if question.sustained else step


def shares(step: StepModel, batch: Batch) -> dict[str, Any]:
    """Seconds of the step that each resource decides.

    An operator's time goes to the resource its own roofline is bound by; what the kernel takes
    beyond that roofline stays with it, except that an operator whose roofline is under a third of
    its time is bound by fixed overheads.
    """
    times = step.operator_s(batch) * step.engine.scale(step.device.family)
    parts = roofline_s(step.matrix, step.peaks, batch)
    ideal = np.stack([parts[b] for b in BOUNDS[:3]])
    which = np.argmax(ideal, axis=0)
    which = np.where(ideal.max(axis=0) < times * (step.clock or 1.0) / 3.0, 3, which)
    out = {b: np.where(which == i, times, 0.0).sum(axis=0) for i, b in enumerate(BOUNDS)}
    out["overhead"] = out["overhead"] + step.overhead_s(batch)
    return out


def _regimes(step: StepModel, question: Question, fits: int) -> list[dict[str, Any]]:
    """One record per batch; in a long run each batch settles at a clock of its own."""
    if not question.sustained:
        return _regimes_at(step, question, fits)
    ranks = step.plan.data * step.plan.pipeline
    return [
        row for b in question.batches
        for row in _regimes_at(settled(step, question.steps(b / ranks)),
                               evolve(question, batches=(b,)), fits)
    ]  # fmt: skip


def _regimes_at(step: StepModel, question: Question, fits: int) -> list[dict[str, Any]]:
    n = np.array(question.batches, float)
    batch = question.steps(n / (step.plan.data * step.plan.pipeline))
    interval = step.interval(batch)
    ideal, split = step.ideal_s(batch), shares(step, batch)
    flop = step.matrix.total("flop", batch)
    moved = step.matrix.total("read", batch) + step.matrix.total("written", batch)
    tokens = n * (1.0 if question.phase == "decode" else question.context)
    clock, rate = step.clock or 1.0, step.at(None).timer.shape.bf16_flop_per_s
    load = at_clock(step_load(step, batch, interval.seconds), clock)
    watts = power_watts(step.device, load)
    price = step.device.price.on_demand_usd_per_hour if step.device.price else None
    rows = []
    for i, b in enumerate(question.batches):
        seconds = float(interval.seconds[i])
        part = {k: float(v[i]) / seconds for k, v in split.items()}
        devices = step.plan.devices
        rows.append(
            {
                "batch": b,
                "fits": b <= fits,
                "step_s": seconds,
                "clock": clock,
                "low_s": float(interval.low_s[i]),
                "high_s": float(interval.high_s[i]),
                "ideal_s": float(ideal[i]),
                "limit_share": float(ideal[i]) / seconds,
                "bound": max(part, key=part.__getitem__),
                "shares": part,
                "tokens_per_s": float(tokens[i]) / seconds,
                "flop_utilization": float(flop[i]) / seconds / rate,
                "bandwidth_utilization": float(moved[i])
                / seconds
                / step.device.memory.bandwidth_bytes_per_s,
                "watts": float(watts[i]) * devices,
                "joules_per_token": float(watts[i]) * devices * seconds / float(tokens[i]),
                "usd_per_million_tokens": None
                if price is None
                else price * devices / 3600.0 * seconds / float(tokens[i]) * 1e6,
            }
        )
    return rows


def operator_rows(step: StepModel, question: Question) -> list[dict[str, Any]]:
    """FLOP, bytes, intensity, time, bound and share of each operator at one batch."""
    batch = question.steps(question.batch / (step.plan.data * step.plan.pipeline))
    cost, parts = step.matrix.cost(batch), roofline_s(step.matrix, step.peaks, batch)
    times = step.operator_s(batch) * step.engine.scale(step.device.family)
    total = float(step.step_s(batch))
    rows = []
    for i, op in enumerate(step.operators):
        seconds, moved = float(times[i]), float(cost["read"][i] + cost["written"][i])
        if seconds <= 0:
            continue
        ideal = {b: float(parts[b][i]) for b in BOUNDS[:3]}
        bound = max(ideal, key=ideal.__getitem__)
        if ideal[bound] < seconds * (step.clock or 1.0) / 3.0:
            bound = "overhead"
        rows.append(
            {
                "operator": op.name,
                "part": op.part,
                "count": op.count,
                "flop": float(cost["flop"][i]),
                "bytes": moved,
                "sent_bytes": float(cost["sent"][i]),
                "intensity": float(cost["flop"][i]) / moved if moved else 0.0,
                "seconds": seconds,
                "ideal_s": max(ideal.values()),
                "bound": bound,
                "share": seconds / total,
            }
        )
    over = float(step.overhead_s(batch))
    rows.append(
        {
            "operator": "engine (host, launches)",
            "part": "engine",
            "count": 1,
            "flop": 0.0,
            "bytes": 0.0,
            "sent_bytes": 0.0,
            "intensity": 0.0,
            "seconds": over,
            "ideal_s": 0.0,
            "bound": "overhead",
            "share": over / total,
        }
    )
    return sorted(_merged(rows), key=lambda r: -r["seconds"])


def _merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Operators of the same name in different layer groups as one row."""
    out: dict[str, dict[str, Any]] = {}
    for row in rows:
        known = out.get(row["operator"])
        if known is None:
            out[row["operator"]] = dict(row)
            continue
        if row["seconds"] > known["seconds"]:
            known["bound"] = row["bound"]
        for key in ("count", "flop", "bytes", "sent_bytes", "seconds", "ideal_s", "share"):
            known[key] += row[key]
        known["intensity"] = known["flop"] / known["bytes"] if known["bytes"] else 0.0
    return list(out.values())


def crossover_batch(step: StepModel, question: Question) -> float | None:
    """Batch at which the ideal step turns from memory to compute, solved from coefficients.

    With FLOP = f0 + f1 B and bytes = b0 + b1 B (both exact for dense models), the two rooflines
    cross at B = (b0 r - f0) / (f1 - b1 r), r = rate / bandwidth. None where they never cross:
    each added sequence then brings more bytes than the device can balance.
    """
    one, two = (question.steps(np.float64(v)) for v in (1.0, 2.0))
    matrix, peaks = step.matrix, step.peaks
    flop = [float((matrix.cost(b)["flop"] / peaks.flop_per_s).sum()) for b in (one, two)]
    moved = [
        float((matrix.cost(b)["read"] + matrix.cost(b)["written"]).sum())
        / peaks.bandwidth_bytes_per_s
        for b in (one, two)
    ]
    f1, b1 = flop[1] - flop[0], moved[1] - moved[0]
    f0, b0 = flop[0] - f1, moved[0] - b1
    return (b0 - f0) / (f1 - b1) if f1 > b1 else None
