"""A candidate before the simulator: whether it keeps the promises, and with how many replicas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import evolve, frozen

from ..units import show_s
from .candidates import preference
from .curve import Candidate
from .disaggregated import simulate_split
from .report import ServingReport
from .simulate import simulate
from .slo import Promise
from .traffic import Trace

SAMPLE = 1200
"""Requests of the trace that a finalist is simulated on, per replica."""
SCREEN = 300
"""Requests that show whether a configuration is worth that many, or too small by far; also those
of a finalist that has lost already: enough to show its figures beside the winner's."""
LESS_STRAIN = 0.95
"""Share of the best one's strain, over as many requests, from which an equal price is looked at."""


@frozen(kw_only=True, eq=False)
class Confirmed:
    """A candidate after simulation; its report is brief: latencies, rates and price.

    Attributes
    ----------
    strain : float
        The largest promised latency over its limit: below 1 where all are kept.
    screened : float
        The same over the first `SCREEN` requests, for comparison with others of as many.
    lost : bool
        Whether a short run showed that another one is preferred; it was not simulated at length.
    """

    candidate: Candidate
    report: ServingReport
    kept: bool
    broken: tuple[str, ...]
    strain: float
    screened: float = math.inf
    lost: bool = False

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


def price_of(found: Confirmed) -> tuple[float, bool, float, float]:
    """By what a confirmed candidate is preferred: as `cost_of`, then what keeps most room."""
    c = found.candidate
    if c.requests_per_s:
        c = evolve(c, requests_per_s=found.report.summary["requests_per_s"])
    return *cost_of(c), found.strain


def cost_of(c: Candidate) -> tuple[float, bool, float]:
    """What `preference` says of a candidate before its latency."""
    return preference(c)[:3]


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
    short run comes first; what already breaks a promise in it is not simulated at length, nor what
    costs as much as `best` and keeps less room there.
    """
    devices, share = candidate.step.plan.devices, candidate.share
    most = fleet // devices * share
    if trace.clients:
        return _fewest(candidate, trace, promises, min(most, trace.clients), best)

    least = (math.inf,) if best is None else price_of(best)[:3]
    server = candidate.server()
    tries = 0
    while True:
        confirmed = short = _simulate(candidate, trace, promises, SCREEN, server)
        if best is not None and cost_of(candidate) >= least:
            dearer = cost_of(candidate) > least
            if dearer or not short.strain < LESS_STRAIN * best.screened:
                return evolve(short, lost=True)
        if confirmed.kept:
            confirmed = _simulate(candidate, trace, promises, SAMPLE, server)
            confirmed = evolve(confirmed, screened=short.strain)
        larger = _larger(confirmed, most)
        if confirmed.kept or larger is None or tries == 3 or cost_of(larger) >= least:
            return confirmed
        candidate = larger
        tries += 1


def _fewest(
    candidate: Candidate, trace: Trace, promises: Sequence[Promise], most: int,
    best: Confirmed | None,
) -> Confirmed:  # fmt: skip
    """A closed loop on the fewest replicas that keep the promises.

    The closed form says where to begin; from there one more or one less is simulated until both
    sides are known. With fewer replicas every client waits longer, so no other number need be
    looked at. The run is the whole loop: cut short, its first round, when all clients start at
    once, would count for more than it does. No replica is added that would let `best` be
    preferred.
    """
    server = candidate.server()
    tried: dict[int, Confirmed] = {}

    def keeps(replicas: int) -> bool:
        if replicas not in tried:
            asked = candidate.with_replicas(replicas)
            tried[replicas] = _simulate(asked, trace, promises, len(trace), server)
        return tried[replicas].kept

    count = candidate.replicas
    while not keeps(count):
        larger = candidate.with_replicas(count + 1)
        if count >= most or (best is not None and cost_of(larger) >= price_of(best)[:3]):
            return tried[count]
        count += 1
    while count > 1 and keeps(count - 1):
        count -= 1
    return tried[count]


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
    part, times = _share_of(trace, requests, groups)
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
            report.summary["throughput_output_tokens_per_s"] * times,
    })  # fmt: skip
    if trace.clients:
        report = evolve(report, summary=_of_all_clients(report.summary, groups, times))
    broken = tuple(
        f"{p.metric} {p.point} is {show_s(p.value_s(report.summary) or 0.0, 4)}, above "
        f"{show_s(p.limit_s)}"
        for p in promises if not p.kept(report.summary)
    )  # fmt: skip
    strain = max((p.value_s(report.summary) or 0.0) / p.limit_s for p in promises)
    return Confirmed(
        candidate=candidate, report=report, kept=not broken, broken=broken, strain=strain
    )


def _share_of(trace: Trace, requests: int, groups: int) -> tuple[Trace, float]:
    """What one of `groups` equal parts of a fleet gets, and how many times that is the whole.

    Clients and conversations stay where they began. Of clients the fullest part is taken, which
    has all requests of its own, of conversations and arrivals enough for `requests` a part.
    """
    if trace.follows is None:
        part = trace.head(min(len(trace), requests * groups))
        if groups > 1:
            part = part.take(np.arange(0, len(part), groups))
        return part, groups
    roots = trace.roots
    if trace.clients:
        part = trace.chains(roots[::groups]) if groups > 1 else trace
        return part, len(roots) / len(roots[::groups])
    each = len(trace) / len(roots)
    some = roots[: min(len(roots), math.ceil(requests * groups / each))]
    return trace.chains(some[::groups]), groups


def _of_all_clients(summary: dict[str, Any], groups: int, times: float) -> dict[str, Any]:
    """Rate and price of the whole fleet where the part simulated is its fullest."""
    price = summary["usd_per_million_output_tokens"]
    return {
        **summary, "requests_per_s": summary["requests_per_s"] * times,
        "usd_per_million_output_tokens": None if price is None else price * groups / times,
    }  # fmt: skip
