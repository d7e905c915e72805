"""`advise`: the cheapest configuration that keeps the promises, confirmed by simulation."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from .. import catalog
from ..cost.engines import Engine
from ..errors import InvalidInput
from ..hardware import Accelerator, Cluster
from ..models import ModelSpec
from .candidates import enumerate_candidates, preference
from .confirm import Confirmed, confirm, price_of
from .curve import Candidate, Load, Rejected
from .server import check_generates
from .slo import Promise
from .traffic import Trace

FINALISTS = 4
"""Configurations that the simulator looks at before a winner is named."""


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

    @property
    def requests_per_s(self) -> float | None:
        """The load's rate; in a closed loop what the best configuration makes of it."""
        if not self.load.clients:
            return self.load.requests_per_s
        return self.best.report.summary["requests_per_s"] if self.best else None

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
            "requests_per_s": self.requests_per_s, "wall_s": self.wall_s,
            **({"clients": self.load.clients, "think_s": self.load.think_s}
               if self.load.clients else {}),
        }  # fmt: skip


def load_of(trace: Trace, rate: float | None = None) -> Load:
    """The means of a trace; with prefix units, what an unlimited cache leaves to compute.

    A closed loop has clients instead of a rate. Conversations arrive at a rate and bring as many
    requests as they have turns, later or earlier as the answers are; their mean rate is that of
    the starts times the turns.

    Raises
    ------
    InvalidInput
        If all requests arrive at once, wait for nobody, and no rate is given.
    """
    prompt = float(trace.prompt_tokens.mean())
    output = float(trace.output_tokens.mean())
    # A decoding step sees sequences in proportion to how long they stay.
    stay = trace.output_tokens / trace.output_tokens.sum()
    context = float(((trace.prompt_tokens + trace.output_tokens / 2.0) * stay).sum())
    hit = trace.infinite_cache_hit_ratio() if trace.unit_tokens and len(trace.units) else 0.0
    requests = rate if rate is not None else trace.requests_per_s
    think = 0.0
    if trace.clients:
        requests = 0.0
        later = trace.follows >= 0 if trace.follows is not None else ()
        if trace.think_s is not None and np.any(later):
            think = float(trace.think_s[later].mean())
    if not math.isfinite(requests):
        raise InvalidInput("All requests of the trace arrive at once: give a rate (--rate).")
    return Load(
        requests_per_s=requests, prompt=prompt * (1.0 - hit), output=output, context=context,
        longest=int((trace.prompt_tokens + trace.output_tokens).max()), whole=prompt,
        clients=trace.clients, think_s=think, whole_chains=trace.follows is not None,
    )  # fmt: skip


def advise(
    model: ModelSpec, fleets: Sequence[tuple[Accelerator, int, Cluster | None]], trace: Trace,
    promises: Sequence[Promise], engine: Engine, *, weights: Sequence[str] = (),
    caches: Sequence[str] = (), progress: Callable[[str], None] | None = None,
) -> Advice:  # fmt: skip
    """Search, then simulate the cheapest candidates until one keeps every promise.

    With a fixed number of clients the fleet must carry all of them under the promises: cheapest is
    what costs least per hour, whatever the rate that follows from its latency.

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
    order = _different(found, load.clients)
    nearest = next((c for c in order if c.prefills), None)
    if nearest is not None and nearest.usd_per_hour <= order[0].usd_per_hour:
        # Where it keeps the promises, only equals in price need a look after it.
        order = [nearest, *(c for c in order if c is not nearest)]
    for candidate in order:
        enough = len(finalists) >= FINALISTS and (
            best is not None or len(finalists) >= 3 * FINALISTS
        )
        if load.clients and len(finalists) < 6 * FINALISTS:
            # Whatever the closed form takes for cheaper than the best so far is looked at.
            cheaper = best is None or candidate.usd_per_hour < best.candidate.usd_per_hour
            enough = enough and not cheaper
        if enough and candidate is not nearest:
            continue
        if progress is not None:
            progress(f"simulating {candidate.describe()}")
        confirmed = confirm(candidate, trace, promises, _fleet(fleets, candidate), best)
        finalists.append(confirmed)
        if confirmed.lost or not confirmed.kept:
            continue
        if best is None or price_of(confirmed) < price_of(best):
            best = confirmed
    finalists.sort(key=lambda f: (f is not best, not f.kept, price_of(f)))
    return Advice(
        best=best, finalists=tuple(finalists), candidates=tuple(found), rejected=tuple(rejected),
        evaluated=evaluated, reasons=dict(Counter(r.kind for r in rejected)),
        promises=tuple(promises), load=load, wall_s=time.perf_counter() - began,
    )  # fmt: skip


def _fleet(fleets: Sequence[tuple[Accelerator, int, Cluster | None]], candidate: Candidate) -> int:
    return next(count for device, count, _ in fleets if device.id == candidate.step.device.id)


def _different(found: Sequence[Candidate], clients: int = 0) -> list[Candidate]:
    """One candidate per plan, formats, share and split: the one whose limits suit its own batch.

    In a closed loop every limit below the clients is a choice too: the queue ends with them. Such
    candidates stand beside the other.

    A budget of one batch limit above the batch the closed form expects is enough; larger limits
    only matter under bursts, which the simulator then shows.
    """
    chosen: dict[Any, Candidate] = {}
    for c in found:
        key: tuple[Any, ...] = (c.step.device.id, c.step.plan, c.share, c.prefills > 0)
        fits = c.max_sequences >= 1.5 * c.batch and c.max_tokens <= 8192
        if clients:
            fits = fits or c.max_sequences >= clients / c.replicas
            key = (*key, 0 if fits else c.max_sequences)
        elif not fits:
            continue
        held = chosen.get(key)
        better = held is None or (c.usd_per_hour, -c.max_tokens, c.max_sequences) < (
            held.usd_per_hour, -held.max_tokens, held.max_sequences
        )  # fmt: skip
        if better:
            chosen[key] = c
    return sorted(chosen.values(), key=preference)
