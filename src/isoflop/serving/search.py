"""`advise`: the cheapest configuration that keeps the promises, confirmed by simulation."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import evolve, frozen

from .. import catalog
from ..cost.engines import Engine
from ..errors import InvalidInput
from ..hardware import Accelerator, Cluster
from ..models import ModelSpec
from ..units import show_s
from .candidates import Candidate, Load, Rejected, enumerate_candidates, preference
from .disaggregated import simulate_split
from .report import ServingReport
from .server import check_generates
from .simulate import simulate
from .slo import Promise
from .traffic import Trace

FINALISTS = 4
"""Configurations that the simulator looks at before a winner is named."""
SAMPLE = 1200
"""Requests of the trace that a finalist is simulated on, per replica."""
SCREEN = 250
"""Requests that show whether a configuration is worth that many, or too small by far."""
BEATEN = 400
"""Requests for a finalist that has lost already: enough to show its figures beside the winner's."""


@frozen(kw_only=True, eq=False)
class Confirmed:
    """A candidate after simulation; its report is brief: latencies, rates and price."""

    candidate: Candidate
    report: ServingReport
    kept: bool
    broken: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """As a plain record."""
        c, s = self.candidate, self.report.summary
        return {
            "configuration": c.describe(), "device": c.step.device.id, "devices": c.devices,
            "replicas": c.replicas, "prefill_replicas": c.prefills, "plan": c.step.plan.describe(),
            "weights": c.step.plan.formats.stored, "kv": c.step.plan.formats.kv,
            "max_sequences": c.max_sequences, "max_tokens": c.max_tokens, "share": c.share,
            "usd_per_hour": c.usd_per_hour if c.step.device.price else None,
            "usd_per_million_output_tokens": s["usd_per_million_output_tokens"],
            "ttft_p99_s": s["ttft_s"]["p99"], "tpot_p95_s": s["tpot_s"]["p95"],
            "tpot_p99_s": s["tpot_s"]["p99"], "e2e_p99_s": s["e2e_s"]["p99"],
            "utilization": s["utilization"], "kept": self.kept, "broken": list(self.broken),
        }  # fmt: skip


@frozen(kw_only=True, eq=False)
class Advice:
    """The answer of a search.

    Attributes
    ----------
    best : Confirmed or None
        None when nothing keeps the promises; `finalists` then holds the nearest.
    evaluated, pruned : int
        Configurations priced in the closed form, and those that could not work.
    reasons : dict of str to int
        Rejections by kind.
    """

    best: Confirmed | None
    finalists: tuple[Confirmed, ...]
    candidates: tuple[Candidate, ...]
    rejected: tuple[Rejected, ...]
    evaluated: int
    reasons: dict[str, int]
    promises: tuple[Promise, ...]
    load: Load
    wall_s: float

    @property
    def pruned(self) -> int:
        """Configurations that could not work."""
        return len(self.rejected)

    @property
    def closest(self) -> Rejected | None:
        """Of what could not work, what misses by least: by latency, devices, bound or memory."""
        for kind in ("latency", "capacity", "bound", "memory"):
            some = [r for r in self.rejected if r.kind == kind]
            if some:
                return min(some, key=lambda r: r.excess)
        return self.rejected[0] if self.rejected else None

    def pareto(self) -> list[dict[str, Any]]:
        """Candidates that no other beats on both price and time per token."""
        front: list[dict[str, Any]] = []
        best = math.inf
        for c in sorted(self.candidates, key=lambda c: (c.usd_per_hour, c.tpot_s)):
            if c.tpot_s < best:
                best = c.tpot_s
                front.append({"configuration": c.describe(), "usd_per_hour": c.usd_per_hour,
                              "tpot_s": c.tpot_s, "ttft_s": c.ttft_s})  # fmt: skip
        return front

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "best": self.best.row() if self.best else None,
            "finalists": [f.row() for f in self.finalists],
            "pareto": self.pareto(), "evaluated": self.evaluated, "pruned": self.pruned,
            "reasons": self.reasons, "slo": [str(p) for p in self.promises],
            "requests_per_s": self.load.requests_per_s, "wall_s": self.wall_s,
        }  # fmt: skip


def load_of(trace: Trace, rate: float | None = None) -> Load:
    """The means of a trace; with prefix units, what an unlimited cache leaves to compute.

    Raises
    ------
    InvalidInput
        If the requests follow each other, or all arrive at once and no rate is given.
    """
    if trace.follows is not None:
        raise InvalidInput(
            "In a closed loop and in conversations the load depends on the answer: a slower "
            "configuration gets fewer requests. Simulate the ones in question (isoflop simulate "
            "takes --clients and --turns), or give the rate that the clients make (--rate)."
        )
    prompt = float(trace.prompt_tokens.mean())
    output = float(trace.output_tokens.mean())
    # A decoding step sees sequences in proportion to how long they stay.
    stay = trace.output_tokens / trace.output_tokens.sum()
    context = float(((trace.prompt_tokens + trace.output_tokens / 2.0) * stay).sum())
    hit = trace.infinite_cache_hit_ratio() if trace.unit_tokens and len(trace.units) else 0.0
    requests = rate if rate is not None else trace.requests_per_s
    if not math.isfinite(requests):
        raise InvalidInput("All requests of the trace arrive at once: give a rate (--rate).")
    return Load(
        requests_per_s=requests, prompt=prompt * (1.0 - hit), output=output, context=context,
        longest=int((trace.prompt_tokens + trace.output_tokens).max()), whole=prompt,
    )  # fmt: skip


def advise(
    model: ModelSpec, fleets: Sequence[tuple[Accelerator, int, Cluster | None]], trace: Trace,
    promises: Sequence[Promise], engine: Engine, *, weights: Sequence[str] = (),
    caches: Sequence[str] = (), progress: Callable[[str], None] | None = None,
) -> Advice:  # fmt: skip
    """Search, then simulate the cheapest candidates until one keeps every promise.

    The roofline with efficiency 1 rejects what no tuning could save, the closed form ranks the
    rest by price, and the simulator, on the trace itself, has the last word. Where prompts and
    decoding on instances of their own can work, the best such split is simulated too.
    """
    began = time.perf_counter()
    with catalog.steady():
        return _advise(model, fleets, trace, promises, engine, weights, caches, progress, began)


def _advise(
    model: ModelSpec, fleets: Sequence[tuple[Accelerator, int, Cluster | None]], trace: Trace,
    promises: Sequence[Promise], engine: Engine, weights: Sequence[str], caches: Sequence[str],
    progress: Callable[[str], None] | None, began: float,
) -> Advice:  # fmt: skip
    unpriced = [d.name for d, _, _ in fleets if d.price is None]
    if unpriced and len(fleets) > 1:
        raise InvalidInput(
            f"The catalog has no public price of {', '.join(unpriced)}, so the fleets cannot be "
            "compared. Ask about it alone, or give the price in USD per device-hour: "
            f"8x{next(d.id for d, _, _ in fleets if d.price is None)}@3.20."
        )
    check_generates(model)
    load = load_of(trace)
    if load.longest > model.max_context:
        raise InvalidInput(
            f"The trace's longest request has {load.longest:,} tokens; {model.name} serves at "
            f"most {model.max_context:,}. Leave such requests out (--drop-long)."
        )
    found, rejected, evaluated = enumerate_candidates(
        model, fleets, engine, load, promises, weights, caches, load.longest,
        split=trace.follows is None,
    )  # fmt: skip
    finalists: list[Confirmed] = []
    best: Confirmed | None = None
    order = _different(found)
    nearest = next((c for c in order if c.prefills), None)
    if nearest is not None and nearest.usd_per_hour <= order[0].usd_per_hour:
        # Where it keeps the promises, only equals in price need a look after it.
        order = [nearest, *(c for c in order if c is not nearest)]
    for candidate in order:
        enough = len(finalists) >= FINALISTS and (
            best is not None or len(finalists) >= 3 * FINALISTS
        )
        if enough and candidate is not nearest:
            continue
        if progress is not None:
            progress(f"simulating {candidate.describe()}")
        confirmed = confirm(candidate, trace, promises, _fleet(fleets, candidate), best)
        finalists.append(confirmed)
        if confirmed.kept and (best is None or _price(confirmed) < _price(best)):
            best = confirmed
    finalists.sort(key=lambda f: (not f.kept, _price(f)))
    return Advice(
        best=best, finalists=tuple(finalists), candidates=tuple(found), rejected=tuple(rejected),
        evaluated=evaluated, reasons=dict(Counter(r.kind for r in rejected)),
        promises=tuple(promises), load=load, wall_s=time.perf_counter() - began,
    )  # fmt: skip


def _price(found: Confirmed) -> tuple[float, bool, float]:
    return preference(found.candidate)


def _fleet(fleets: Sequence[tuple[Accelerator, int, Cluster | None]], candidate: Candidate) -> int:
    return next(count for device, count, _ in fleets if device.id == candidate.step.device.id)


def _different(found: Sequence[Candidate]) -> list[Candidate]:
    """One candidate per plan, formats, share and split: the one whose limits suit its own batch.

    A budget of one batch limit above the batch the closed form expects is enough; larger limits
    only matter under bursts, which the simulator then shows.
    """
    chosen: dict[Any, Candidate] = {}
    for c in found:
        key = (c.step.device.id, c.step.plan, c.share, c.prefills > 0)
        fits = c.max_sequences >= 1.5 * c.batch and c.max_tokens <= 8192
        if not fits:
            continue
        held = chosen.get(key)
        better = held is None or (c.usd_per_hour, -c.max_tokens, c.max_sequences) < (
            held.usd_per_hour, -held.max_tokens, held.max_sequences
        )  # fmt: skip
        if better:
            chosen[key] = c
    return sorted(chosen.values(), key=preference)


def confirm(
    candidate: Candidate,
    trace: Trace,
    promises: Sequence[Promise],
    fleet: int,
    best: Confirmed | None = None,
) -> Confirmed:
    """Simulate a candidate on its share of the trace; add replicas until the promises hold.

    No replica is added that would let `best` be preferred: it could not win any more.

    One replica gets every n-th request: with equal replicas in turn the others look the same. A
    short run comes first; what already breaks a promise in it is not simulated at length.
    """
    devices, share = candidate.step.plan.devices, candidate.share
    most = fleet // devices * share

    def lost(other: Candidate) -> bool:
        return best is not None and preference(other) >= _price(best)

    if lost(candidate):
        return _simulate(candidate, trace, promises, BEATEN)
    server = candidate.server()
    tries = 0
    while True:
        confirmed = _simulate(candidate, trace, promises, SCREEN, server)
        if confirmed.kept:
            confirmed = _simulate(candidate, trace, promises, SAMPLE, server)
        larger = _larger(confirmed, most)
        if confirmed.kept or larger is None or tries == 3 or lost(larger):
            return confirmed
        candidate = larger
        tries += 1


def _larger(confirmed: Confirmed, most: int) -> Candidate | None:
    """A quarter more replicas, of the pool that broke a promise where there are two."""
    c = confirmed.candidate
    if not c.prefills:
        more = min(most, max(c.replicas + 1, math.ceil(c.replicas * 1.25)))
        return c.with_replicas(more) if more > c.replicas else None
    late = any(b.startswith("ttft") for b in confirmed.broken)
    slow = any(not b.startswith("ttft") for b in confirmed.broken)
    prefills = max(c.prefills + 1, math.ceil(c.prefills * 1.25)) if late else c.prefills
    decodes = max(c.decodes + 1, math.ceil(c.decodes * 1.25)) if slow else c.decodes
    if prefills + decodes > most:
        return None
    return c.with_replicas(prefills + decodes, prefills)


def _simulate(
    candidate: Candidate, trace: Trace, promises: Sequence[Promise], requests: int,
    server: Any = None,
) -> Confirmed:  # fmt: skip
    # Equal replicas fed in turn look the same: one, or one set of two pools, stands for all.
    groups = candidate.replicas
    if candidate.prefills:
        groups = math.gcd(candidate.prefills, candidate.decodes)
    part = trace.head(min(len(trace), requests * groups))
    if groups > 1:
        part = part.take(np.arange(0, len(part), groups))
    server = server or candidate.server()
    if candidate.prefills:
        report = simulate_split(
            server, part, prefills=candidate.prefills // groups,
            decodes=candidate.decodes // groups, drop_long=True, brief=True,
        )  # fmt: skip
    else:
        report = simulate(server, part, drop_long=True, brief=True)
    report = evolve(report, summary={
        **report.summary, "replicas": candidate.replicas, "devices": candidate.devices,
        "throughput_output_tokens_per_s":
            report.summary["throughput_output_tokens_per_s"] * groups,
    })  # fmt: skip
    broken = tuple(
        f"{p.metric} {p.point} is {show_s(p.value_s(report.summary) or 0.0, 4)}, above "
        f"{show_s(p.limit_s)}"
        for p in promises if not p.kept(report.summary)
    )  # fmt: skip
    return Confirmed(candidate=candidate, report=report, kept=not broken, broken=broken)
