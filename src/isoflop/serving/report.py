"""What a simulation says: latencies with intervals, rates, cache, energy, price."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import evolve, field, frozen

from ..cost.features import Array, Batch
from ..cost.power import Load, at_clock, power_watts, settled_clock, step_load
from ..errors import InvalidInput
from .bounds import RESOURCES, bound_shares
from .loop.records import (
    BATCH_S,
    BIN_LOW,
    BIN_WIDTH,
    BLOCK_S,
    BUSY,
    CONTEXT_S,
    DECODE_TOKENS,
    HOST_HITS,
    ITERATIONS,
    N_REFUSED,
    PREEMPTIONS,
    PROMPT_S,
    PROMPT_STEPS,
    PROMPT_TOKENS,
    STEPS,
    UNIT_HITS,
    UNIT_LOOKUPS,
)  # fmt: skip
from .traffic import Trace

if TYPE_CHECKING:
    from .running import Running
    from .server import Server
    from .slo import Promise

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
NAMES = ("p50", "p90", "p95", "p99")
BATCHES = 20
"""Batches of consecutive requests for confidence intervals (batch means)."""
T_19 = 1.729
"""0.95 quantile of Student's t with BATCHES - 1 degrees of freedom: 90% two-sided."""
HISTOGRAM = 3200
JOULES_PER_KWH = 3.6e6
CO2_GRAMS_PER_KWH = 400.0
"""Intensity of the electricity, stated rather than known: about the world's mean of recent years.
Devices only; a building adds its own share."""


@frozen(kw_only=True, eq=False)
class Collected:
    """Latencies: per request while they fit in memory, as histograms otherwise.

    Attributes
    ----------
    ttft_s, tpot_s, e2e_s : array
        Per request in order of arrival; NaN where undefined (TPOT of one token).
    histograms : dict of str to array, or None
    """

    ttft_s: Array
    tpot_s: Array
    e2e_s: Array
    arrival_s: Array
    finish_s: Array
    output_tokens: float
    prompt_tokens: float
    requests: int
    hit_tokens: float
    histograms: dict[str, Array] | None = None
    sums: dict[str, float] = field(factory=dict)
    last_s: float = 0.0
    first_s: float = np.inf

    @classmethod
    def of(
        cls, instances: Sequence[Running], parts: Sequence[Array], trace: Trace,
        kept: Sequence[Array] = (), came_s: Array | None = None,
    ) -> Collected:  # fmt: skip
        """Gather the results of instances whose rows i are requests parts[j][i] of `trace`.

        With `kept`, only rows where kept[j][i]; latency then counts from the first arrivals,
        `came_s` or the trace's, because the others started again elsewhere.
        """
        n = len(trace)
        begun = trace.arrival_s if came_s is None else came_s
        arrival, first, finish, hit = (np.full(n, np.nan) for _ in range(4))
        for j, (instance, part) in enumerate(zip(instances, parts)):
            rows = np.nonzero(kept[j])[0] if kept else np.arange(len(part))
            part = part[rows]
            arrival[part] = begun[part] if kept else instance.requests.arrival[rows]
            first[part] = instance.requests.first[rows]
            finish[part] = instance.requests.finish[rows]
            hit[part] = instance.requests.hit[rows]
        extra = instances[0].server.step.engine.arrival_s
        output = np.asarray(trace.output_tokens, float)
        with np.errstate(invalid="ignore", divide="ignore"):
            tpot = np.where(output > 1, (finish - first) / (output - 1), np.nan)
        return cls(
            ttft_s=first - arrival + extra, tpot_s=tpot, e2e_s=finish - arrival + extra,
            arrival_s=arrival, finish_s=finish, output_tokens=float(output.sum()),
            prompt_tokens=float(trace.prompt_tokens.sum()), requests=n,
            hit_tokens=float(np.nansum(hit)), last_s=float(np.nanmax(finish)),
            first_s=float(np.nanmin(arrival)),
        )  # fmt: skip

    @classmethod
    def empty(cls) -> Collected:
        """Nothing yet, to be filled by `add`."""
        none = np.zeros(0)
        return cls(
            ttft_s=none, tpot_s=none, e2e_s=none, arrival_s=none, finish_s=none, output_tokens=0.0,
            prompt_tokens=0.0, requests=0, hit_tokens=0.0,
            histograms={k: np.zeros(HISTOGRAM) for k in ("ttft_s", "tpot_s", "e2e_s")},
            sums=dict.fromkeys(("ttft_s", "tpot_s", "e2e_s"), 0.0),
        )  # fmt: skip

    def add(self, instance: Running, rows: slice, trace: Trace) -> Collected:
        """With the results of rows that are done."""
        r = instance.requests
        extra = instance.server.step.engine.arrival_s
        output = np.asarray(trace.output_tokens, float)
        first, finish, arrival = r.first[rows], r.finish[rows], r.arrival[rows]
        values = {
            "ttft_s": first - arrival + extra, "e2e_s": finish - arrival + extra,
            "tpot_s": ((finish - first) / np.maximum(output - 1, 1))[output > 1],
        }  # fmt: skip
        assert self.histograms is not None
        for name, v in values.items():
            slot = ((np.log(np.maximum(v, 1e-5)) - BIN_LOW) / BIN_WIDTH).astype(int)
            self.histograms[name] += np.bincount(
                np.clip(slot, 0, HISTOGRAM - 1), minlength=HISTOGRAM
            )
            self.sums[name] += float(v.sum())
        return evolve(
            self, output_tokens=self.output_tokens + float(output.sum()),
            prompt_tokens=self.prompt_tokens + float(trace.prompt_tokens.sum()),
            requests=self.requests + len(trace), last_s=max(self.last_s, float(finish.max())),
            first_s=min(self.first_s, float(arrival.min())),
        )  # fmt: skip

    def latency(self, name: str) -> dict[str, Any]:
        """p50, p90, p95, p99, mean and the 90% interval of each where requests are kept."""
        if self.histograms is not None:
            return histogram_summary(self.histograms[name], self.sums[name])
        return sample_summary(getattr(self, name))


def percentiles(values: Array) -> Array:
    """`PERCENTILES` along the last axis, which becomes the first; linear between two values.

    As `np.percentile` has them, to the last bit, without the masked arrays that it imports: a
    tenth of the time of a small simulation.
    """
    at = np.array(PERCENTILES) / 100.0 * (values.shape[-1] - 1)
    low = np.floor(at).astype(int)
    share = at - low
    ordered = np.sort(values, axis=-1)
    a, b = ordered[..., low], ordered[..., np.minimum(low + 1, values.shape[-1] - 1)]
    found = np.where(share < 0.5, a + (b - a) * share, b - (b - a) * (1.0 - share))
    return np.moveaxis(found, -1, 0)


def sample_summary(values: Array) -> dict[str, Any]:
    """Percentiles and mean of a sample in order of arrival, with batch-means intervals."""
    v = values[np.isfinite(values)]
    if not len(v):
        return {**dict.fromkeys(NAMES), "mean": None, "ci90": {}}
    out: dict[str, Any] = dict(zip(NAMES, map(float, percentiles(v))))
    out["mean"] = float(v.mean())
    out["ci90"] = {}
    if len(v) >= 10 * BATCHES:
        parts = v[: len(v) // BATCHES * BATCHES].reshape(BATCHES, -1)
        table = np.vstack([percentiles(parts), parts.mean(axis=1)]).T
        out["ci90"] = _intervals(out, table)
    return out


def _intervals(whole: dict[str, Any], table: Array) -> dict[str, list[float]]:
    """90% intervals around the figures of the whole run from those of its batches, (BATCHES, 5)."""
    half = T_19 * table.std(axis=0, ddof=1) / np.sqrt(BATCHES)
    return {name: [whole[name] - float(h), whole[name] + float(h)]
            for name, h in zip((*NAMES, "mean"), half)}  # fmt: skip


def _gap_intervals(gaps: Array, batches: Sequence[Array]) -> dict[str, list[float]]:
    if len(batches) != BATCHES or any(b.sum() <= 0 for b in batches):
        return {}
    parts = [histogram_summary(b) for b in batches]
    table = np.array([[p[name] for name in (*NAMES, "mean")] for p in parts])
    return _intervals(histogram_summary(gaps), table)


def histogram_summary(counts: Array, total: float | None = None) -> dict[str, Any]:
    """Percentiles and mean of a log-spaced histogram; within half a bin, 0.3%."""
    n = counts.sum()
    if n <= 0:
        return {**dict.fromkeys(NAMES), "mean": None}
    centres = np.exp(BIN_LOW + (np.arange(len(counts)) + 0.5) * BIN_WIDTH)
    cumulative = np.cumsum(counts) / n
    places = np.searchsorted(cumulative, np.array(PERCENTILES) / 100.0 - 1e-12)
    out: dict[str, Any] = {k: float(centres[min(i, len(counts) - 1)])
                           for k, i in zip(NAMES, places)}  # fmt: skip
    out["mean"] = float(total / n if total is not None else (centres * counts).sum() / n)
    return out


@frozen(kw_only=True, eq=False)
class ServingReport:
    """The answer of a simulation. `as_dict` is its JSON; times in seconds, money in USD."""

    server: Server
    trace: Trace
    collected: Collected
    instances: tuple[Running, ...]
    replicas: int
    dropped: int
    wall_s: float
    summary: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return self.summary

    def rows(self) -> list[dict[str, Any]]:
        """One record per latency."""
        return [{"metric": m, **self.summary[m]} for m in ("ttft_s", "tpot_s", "itl_s", "e2e_s")]

    def goodput(self, limits: dict[str, float]) -> float:
        """Share of requests within every limit, by metric name (`ttft_s`, `tpot_s`, `e2e_s`)."""
        good = np.ones(self.collected.requests, bool)
        for name, limit in limits.items():
            v = getattr(self.collected, name)
            good &= ~(v > limit)
        return float(good.mean())

    def kept(self, promises: Sequence[Promise]) -> list[dict[str, Any]]:
        """Each promise with its value, whether it is kept and the share of requests within it."""
        return [
            {"promise": str(p), "value_s": p.value_s(self.summary), "kept": p.kept(self.summary),
             "share_within": None if p.metric == "itl"
             else self.goodput({f"{p.metric}_s": p.limit_s})}
            for p in promises
        ]  # fmt: skip

    def goodput_per_s(self, promises: Sequence[Promise]) -> float | None:
        """Requests per second within all limits on requests; None without any."""
        limits: dict[str, float] = {}
        for p in promises:
            if p.metric != "itl":
                name = f"{p.metric}_s"
                limits[name] = min(p.limit_s, limits.get(name, np.inf))
        return self.goodput(limits) * self.summary["requests_per_s"] if limits else None


TOTALS = (BUSY, BATCH_S, BLOCK_S, CONTEXT_S, DECODE_TOKENS, PROMPT_TOKENS, PROMPT_S)
COUNTS = (PREEMPTIONS, STEPS, ITERATIONS, N_REFUSED, UNIT_HITS, UNIT_LOOKUPS, HOST_HITS,
          PROMPT_STEPS)  # fmt: skip


@frozen(kw_only=True, slots=False, eq=False)
class _Group:
    """Replicas of one kind and what they did together."""

    server: Server
    replicas: int
    total: dict[int, float]
    count: dict[int, int]

    @classmethod
    def all(cls, servers: Sequence[Server], instances: Sequence[Running]) -> list[_Group]:
        """One group per distinct server; a replica may have had several instances."""
        groups = []
        for kind in {id(s): s for s in servers}.values():
            mine = [i for i in instances if i.server is kind]
            total = {k: sum(i.real(k) for i in mine) for k in TOTALS}
            count = {k: sum(i.whole(k) for i in mine) for k in COUNTS}
            groups.append(cls(
                server=kind, replicas=sum(s is kind for s in servers), total=total, count=count,
            ))  # fmt: skip
        return groups

    @cached_property
    def mean(self) -> _Mean:
        """The mean steps, priced by the full model."""
        return _Mean.of(self.server, self.total, self.count)

    @property
    def devices(self) -> float:
        return self.replicas / self.server.share * self.server.step.plan.devices

    def watts(self, span_s: float) -> float:
        return _watts(self.server, self.mean, self.busy(span_s))

    def busy(self, span_s: float) -> float:
        """Share of the devices' time in steps."""
        device_s = max(span_s * self.replicas, 1e-12)
        return min(1.0, self.total[BUSY] / device_s * self.server.share)

    def clock(self, span_s: float) -> float:
        """Share of the highest clock that the devices' power allows over the whole run."""
        counts = self.mean.weight / np.maximum(self.mean.step_s, 1e-12)
        return settled_clock(
            self.server.step, self.mean.batch, counts=counts, busy=self.busy(span_s)
        )

    @property
    def usd_per_hour(self) -> float | None:
        price = self.server.step.device.price
        return None if price is None else price.on_demand_usd_per_hour * self.devices


def make_report(
    server: Server, trace: Trace, collected: Collected, instances: Sequence[Running], *,
    replicas: int, dropped: int, wall_s: float, servers: Sequence[Server] = (),
    brief: bool = False, gap_batches: Sequence[Array] = (),
) -> ServingReport:  # fmt: skip
    """Summarise finished instances; `servers` are the replicas where they differ.

    `gap_batches` are histograms of the gaps between tokens by batch of consecutive arrivals, for
    their interval.

    A `brief` report has None for power, energy, CO2, clocks and what bounds the steps, for which
    the full model prices the mean steps once more: a search of many runs does without.
    """
    groups = _Group.all(servers or [server] * replicas, instances)
    gaps = np.sum([i.state.histogram for i in instances], axis=0)
    span = max(collected.last_s - collected.first_s, 1e-12)
    total = {k: sum(g.total[k] for g in groups) for k in TOTALS}
    count = {k: sum(g.count[k] for g in groups) for k in COUNTS}
    busy = max(total[BUSY], 1e-12)
    devices = sum(g.devices for g in groups)
    hourly = [g.usd_per_hour for g in groups]
    usd = None if None in hourly else sum(h for h in hourly if h) * span / 3600.0
    held = sum(g.total[BUSY] * g.server.blocks for g in groups)
    rate = collected.output_tokens / span
    physics = _physics(groups, span, rate, brief=brief)
    bound = physics.pop("bound")
    summary: dict[str, Any] = {
        "model": server.step.model.id,
        "device": " + ".join(dict.fromkeys(g.server.step.device.id for g in groups)),
        "plan": " + ".join(dict.fromkeys(g.server.step.plan.describe() for g in groups)),
        "engine": server.step.engine.id,
        "policy": server.policy, "replicas": replicas, "devices": devices, "trace": trace.name,
        "requests": collected.requests, "dropped": dropped, "label": server.step.label(),
        **{m: collected.latency(m) for m in ("ttft_s", "tpot_s")},
        "itl_s": {**histogram_summary(gaps), "ci90": _gap_intervals(gaps, gap_batches)},
        "e2e_s": collected.latency("e2e_s"),
        "duration_s": span,
        "throughput_output_tokens_per_s": rate,
        "throughput_total_tokens_per_s": (collected.output_tokens + collected.prompt_tokens) / span,
        "requests_per_s": collected.requests / span,
        "utilization": total[BUSY] / (span * replicas),
        "prompt_share": total[PROMPT_S] / busy,
        "mean_batch": total[BATCH_S] / busy,
        "mean_context": total[CONTEXT_S] / busy,
        "cache_blocks": server.blocks,
        "cache_use": total[BLOCK_S] / max(held, 1e-12),
        "preemptions": count[PREEMPTIONS], "steps": count[STEPS],
        "prefix_hit_ratio": collected.hit_tokens / max(collected.prompt_tokens, 1.0),
        "unit_hit_ratio": count[UNIT_HITS] / max(count[UNIT_LOOKUPS], 1),
        "host_hit_ratio": count[HOST_HITS] / max(count[UNIT_LOOKUPS], 1),
        "held_clock": min(g.server.step.clock or 1.0 for g in groups),
        **physics,
        "usd_per_million_output_tokens": None if usd is None
        else usd / collected.output_tokens * 1e6,
        "bound": bound,
        "wall_s": wall_s, "simulated_requests_per_wall_s": collected.requests / max(wall_s, 1e-9),
    }  # fmt: skip
    return ServingReport(
        server=server, trace=trace, collected=collected, instances=tuple(instances),
        replicas=replicas, dropped=dropped, wall_s=wall_s, summary=summary,
    )  # fmt: skip


def _physics(
    groups: Sequence[_Group], span_s: float, tokens_per_s: float, *, brief: bool
) -> dict[str, Any]:
    """Clocks, power, energy per token and what bounds the steps; None each where `brief`."""
    if brief:
        names = ("allowed_clock", "watts_per_device", "joules_per_output_token", *carbon(0.0),
                 "bound")  # fmt: skip
        return dict.fromkeys(names)
    busy = max(sum(g.total[BUSY] for g in groups), 1e-12)
    devices = sum(g.devices for g in groups)
    watts = sum(g.watts(span_s) * g.devices for g in groups) / devices
    bound: dict[str, float] = dict.fromkeys(RESOURCES, 0.0)
    for g in groups:
        for name, share in _bounds(g.server, g.mean).items():
            bound[name] += share * g.total[BUSY] / busy
    return {
        "allowed_clock": min(g.clock(span_s) for g in groups),
        "watts_per_device": watts, "joules_per_output_token": watts * devices / tokens_per_s,
        **carbon(watts * devices / tokens_per_s), "bound": bound,
    }  # fmt: skip


def carbon(joules_per_token: float, grams_per_kwh: float = CO2_GRAMS_PER_KWH) -> dict[str, float]:
    """CO2 of a million output tokens of devices alone, and the grid's intensity it stands for.

    Raises
    ------
    InvalidInput
        If the intensity is negative or not a number.
    """
    if not 0.0 <= grams_per_kwh < np.inf:
        raise InvalidInput(
            f"The grid emits {grams_per_kwh} grams of CO2 per kWh; give zero or more, such as 50 "
            "for hydropower or 800 for coal."
        )
    return {
        "co2_grams_per_million_output_tokens": joules_per_token * 1e6 / JOULES_PER_KWH
        * grams_per_kwh,
        "co2_grams_per_kwh": grams_per_kwh,
    }  # fmt: skip


@frozen(kw_only=True)
class _Mean:
    """The two kinds of second an instance spends, decoding and on prompts, at their mean steps.

    Attributes
    ----------
    weight : (2,)
        Share of busy time.
    batch : Batch
        Shape (2,).
    kernels_s : (operators, 2)
    overhead_s : (2,)
    """

    weight: Array
    batch: Batch
    kernels_s: Array
    overhead_s: Array

    @property
    def step_s(self) -> Array:
        """Seconds of the two steps, (2,)."""
        return self.kernels_s.sum(axis=0) + self.overhead_s

    @classmethod
    def of(cls, server: Server, total: dict[int, float], count: dict[int, int]) -> _Mean:
        """The mean steps of instances of `server`."""
        step, busy = server.step, max(total[BUSY], 1e-12)
        running = total[BATCH_S] / busy / (step.plan.data * step.plan.pipeline)
        share = total[PROMPT_S] / busy
        tokens = max(1.0, total[PROMPT_TOKENS] / max(count[PROMPT_STEPS], 1))
        batch = Batch(
            decode_sequences=np.array([max(running, 1e-3), running]),
            decode_context=total[CONTEXT_S] / busy, prefill_sequences=np.array([0.0, 1.0]),
            prefill_tokens=np.array([0.0, min(tokens, float(server.max_tokens))]),
        )  # fmt: skip
        return cls(
            weight=np.array([1.0 - share, share]), batch=batch,
            kernels_s=step.engine.scale(step.device.family) * step.operator_s(batch),
            overhead_s=step.overhead_s(batch),
        )  # fmt: skip


def _bounds(server: Server, mean: _Mean) -> dict[str, float]:
    """Share of busy time bound by compute, memory, network and host, at the mean steps."""
    shares = bound_shares(server.step, mean.batch, mean.kernels_s)
    return {name: float((mean.weight * share).sum()) for name, share in shares.items()}


def _watts(server: Server, mean: _Mean, busy: float) -> float:
    """Mean board power: awake but idle outside steps, at the mean steps' load inside."""
    device = server.step.device
    load = at_clock(step_load(server.step, mean.batch, mean.step_s), server.step.clock or 1.0)
    watts = float((mean.weight * power_watts(device, load)).sum())
    return busy * watts + (1.0 - busy) * float(power_watts(device, Load(compute=0.0, memory=0.0)))
