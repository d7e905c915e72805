"""`isoflop simulate MODEL --on FLEET`: real traffic through an engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ._options import Count
from ._traffic import DEFAULT_TRAFFIC, Traffic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..serving.fleet import Outage
    from ..serving.report import ServingReport
    from ..serving.server import Server
    from ..serving.traffic import Trace


def simulate(
    model: str,
    *,
    on: str,
    traffic: Traffic = DEFAULT_TRAFFIC,
    plan: str = "",
    weights: str = "",
    experts: str = "",
    kv: str = "bf16",
    engine: str = "vllm",
    policy: str = "vllm",
    max_sequences: Count = 256,
    max_tokens: Count = 8192,
    max_context: Count = 0,
    cache_blocks: Count = 0,
    utilization: float = 0.9,
    prefix_caching: bool = True,
    host_cache: str = "0 GiB",
    preemption: Literal["recompute", "swap"] = "recompute",
    replicas: int = 1,
    router: str = "round-robin",
    share: int = 1,
    clocks: Literal["burst", "sustained"] = "burst",
    disaggregate: str = "",
    fail: str = "",
    drain: str = "",
    draft: str = "",
    acceptance: float = 0.7,
    draft_tokens: int = 0,
    draft_branches: int = 1,
    slo: str = "",
    grid: float = 400.0,
    json: Annotated[bool, Parameter(negative=())] = False,
    timeline: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Real traffic through an engine: latencies by percentile, throughput, cache, energy, price.

    Parameters
    ----------
    model
        Catalog id or alias, or a Hugging Face config.json.
    on
        Devices of one replica: h100-sxm, 8xh200, dgx-h100; a comma-separated list for replicas
        that differ: h100-sxm,h100-sxm,l40s; two with a colon for the prefill and the decode
        instances of --disaggregate: 2xh100-sxm:4xh200.
    plan
        Parallel plan such as tp8,ep8; default: tensor parallel over the devices. Of prefill and
        decode instances with a colon: tp2:tp4.
    weights
        Number format of the linear layers; default: as published where that is below 16 bits,
        else bf16.
    experts
        Number format of routed experts; default: as weights.
    kv
        Number format of the cache.
    engine
        Engine whose overheads apply: vllm, vllm-v0 (before 0.8), sglang, trtllm or default; or a
        file that measure --out wrote.
    policy
        Scheduling policy: vllm, sarathi, orca, static, prefill-first, shortest-predicted, fair,
        priority.
    max_sequences
        Most running sequences.
    max_tokens
        Token budget of a step.
    max_context
        Longest sequence; default: the model's own.
    cache_blocks
        Pages of the cache; default: what memory leaves.
    utilization
        Share of device memory the engine claims.
    host_cache
        Host memory per device for prefix pages that the device drops, such as 64GiB.
    preemption
        What happens to a preempted sequence's cache.
    replicas
        Equal instances behind the router.
    router
        round-robin, random, least-loaded or prefix-aware. Over prefill and decode instances with
        a colon: prefix-aware:least-loaded.
    share
        Instances on each device, sharing its memory and bandwidth.
    clocks
        burst: full clocks; sustained: the load lasts, and clocks settle where its mean power meets
        the boards' limit. Prefill instances of --disaggregate always settle.
    disaggregate
        Prefill and decode instances apart, as P:D, for example 2:1.
    fail
        Replicas that fail, as replica@start+seconds: 0@60+120 loses what replica 0 has at second
        60 and starts it again elsewhere; several by commas. p0@60+120 and d1@60+120 name prefill
        and decode instances.
    drain
        The same for replicas that finish what they have but take nothing new.
    draft
        Draft model for speculative decoding; with --draft-tokens and no model, lookup drafting.
    acceptance
        Chance that a drafted token is accepted.
    draft_tokens
        Tokens drafted per step; 0: no speculation (4 with a draft model).
    draft_branches
        Candidates per drafted position, a tree that one pass verifies; 1: a chain.
    slo
        Latency promises such as ttft<500ms@p99,tpot<40ms@p95; reports the share within them.
    grid
        Grams of CO2 per kWh of the electricity; 400 is about the world's mean.
    json
        Print JSON.
    timeline
        Write every instance's steps as a Chrome trace (chrome://tracing, Perfetto).
    plot
        Write a chart: .svg, .png or .html.
    """
    from ..serving.report import carbon
    from ..serving.server import Server
    from ..serving.slo import parse_slo
    from ..units import parse
    from ._output import check_chart
    from .explain import build_step

    promised = parse_slo(slo) if slo else []
    check_chart(plot)

    def make(devices: str, plan: str) -> Server:
        return Server(
            step=build_step(model, devices, plan, weights, experts, kv, engine), policy=policy,
            max_sequences=max_sequences, max_tokens=max_tokens, max_context=max_context,
            cache_blocks=cache_blocks, utilization=utilization, prefix_caching=prefix_caching,
            preemption=preemption, share=share,
            host_cache_bytes=parse(host_cache, "bytes", "host cache"),
            speculation=_speculation(draft, acceptance, draft_tokens, draft_branches, devices,
                                     weights, kv, engine),
        )  # fmt: skip

    pools = _pools(disaggregate) if disaggregate else None
    if pools is None:
        _require_one_pool(on, plan, router)
        made = {name: make(name, plan) for name in _replica_names(on)}
        servers = [made[name] for name in _replica_names(on)]
    else:
        _require_one_kind_each(on, replicas)
        sides = list(zip(_sides(on), _sides(plan)))
        made = {side: make(*side) for side in sides}
        servers = [made[side] for side in sides]
    outages = [*_outages(fail, "fail", pools), *_outages(drain, "drain", pools)]
    trace = traffic.trace(min(s.longest for s in servers))
    report = _run(
        servers, trace, outages, pools=pools, replicas=replicas, share=share, router=router,
        sustained=clocks == "sustained", drop_long=traffic.drop_long,
        events=200_000 if timeline is not None or plot is not None else 0,
    )  # fmt: skip
    promises = report.kept(promised)
    report.summary["goodput_requests_per_s"] = report.goodput_per_s(promised)
    report.summary.update(carbon(report.summary["joules_per_output_token"], grid))
    if json:
        from ._output import print_json

        print_json({**report.as_dict(), "slo": promises})
    else:
        _print(report, servers[0], promises)
    _write(report, timeline, plot, quiet=json)


def _run(
    servers: Sequence[Server], trace: Trace, outages: Sequence[Outage], *,
    pools: tuple[int, int] | None, replicas: int, share: int, router: str, sustained: bool,
    drop_long: bool, events: int,
) -> ServingReport:  # fmt: skip
    """The trace through two pools, through replicas that differ or fail, or through equals."""
    if pools is not None:
        from ..serving.disaggregated import simulate_split

        return simulate_split(
            servers[1], trace, prefill=servers[0], prefills=pools[0] * share,
            decodes=pools[1] * share, routers=_sides(router), outages=outages,
            drop_long=drop_long, events=events,
        )  # fmt: skip
    if len(servers) > 1 or outages:
        from ..serving.fleet import simulate_fleet

        return simulate_fleet(
            servers if len(servers) > 1 else list(servers) * replicas, trace, router=router,
            outages=outages, drop_long=drop_long, events=events,
        )  # fmt: skip
    from ..serving.simulate import simulate as run
    from ._output import progress_bar

    with progress_bar("requests", len(trace) >= 5000) as progress:
        return run(
            servers[0], trace, replicas=replicas * share, router=router, drop_long=drop_long,
            events=events, progress=progress, sustained=sustained,
        )  # fmt: skip


def _write(report: ServingReport, timeline: Path | None, plot: Path | None, *, quiet: bool) -> None:
    """The timeline and the chart, where asked for."""
    if timeline is not None:
        from ..serving.timeline import chrome_trace
        from ._output import write_whole

        write_whole(timeline, chrome_trace(report))
        if not quiet:
            print(f"Timeline written to {timeline}.")
    if plot is not None:
        from ..plots.serving import chart
        from ._output import write_chart

        write_chart(chart(report), plot, quiet=quiet)


def _clock_text(summary: dict[str, Any]) -> str:
    """At which clock, where it is not the full one or would not last."""
    if summary["held_clock"] < 1.0:
        return f" at {summary['held_clock']:.0%} of the clock"
    if summary["allowed_clock"] < 1.0:
        return f" ({summary['allowed_clock']:.0%} of the clock if this lasts: --clocks sustained)"
    return ""


def _layout(summary: dict[str, Any]) -> str:
    """How many instances of which plan."""
    if "pools" not in summary:
        return f"{summary['replicas']} x {summary['plan']}"
    return ", ".join(f"{p['pool']} {p['instances']} x {p['plan']}" for p in summary["pools"])


def _pools_text(summary: dict[str, Any]) -> str:
    """How busy each pool is, and how long caches are on their way."""
    from ..units import show_s

    busy = "; ".join(
        f"{p['pool']} {p['instances']} x {p['device']} busy {p['busy']:.0%} of the time"
        + (f" at {p['clock']:.0%} of the clock" if p["clock"] < 1.0 else "")
        for p in summary["pools"]
    )
    return f"Pools: {busy}; a cache is {show_s(summary['transfer_s'])} on its way."


def _replica_names(on: str) -> list[str]:
    return [name.strip() for name in on.split(",") if name.strip()] or [on]


def _sides(text: str) -> tuple[str, str]:
    """What holds for prefill instances and what for decode instances: `A:B`, or one for both."""
    from ..errors import InvalidInput

    parts = [part.strip() for part in text.split(":")]
    if len(parts) > 2 or (len(parts) == 2 and not all(parts)):
        raise InvalidInput(
            f"'{text}' does not name prefill and decode instances: write PREFILL:DECODE, such as "
            "2xh100-sxm:4xh200, tp2:tp4 or prefix-aware:least-loaded, or one name for both."
        )
    return parts[0], parts[-1]


def _outages(
    text: str, kind: Literal["fail", "drain"], pools: tuple[int, int] | None
) -> list[Outage]:  # fmt: skip
    if not text:
        return []
    from ..serving.outages import parse_outages

    return parse_outages(text, kind, pools)


def _speculation(
    draft: str, acceptance: float, tokens: int, branches: int, on: str, weights: str, kv: str,
    engine: str,
) -> Any:  # fmt: skip
    if not draft and not tokens:
        if branches != 1:
            from ..errors import InvalidInput

            raise InvalidInput("A tree of drafts needs --draft MODEL or --draft-tokens N.")
        return None
    from ..serving.speculation import Speculation
    from .explain import build_step

    small = build_step(draft, on, "", weights, "", kv, engine) if draft else None
    return Speculation(draft=tokens or 4, acceptance=acceptance, branches=branches, model=small)


def _require_one_kind_each(on: str, replicas: int) -> None:
    """A pool is of one kind, and P:D says how many of it there are."""
    from ..errors import InvalidInput

    if replicas > 1:
        raise InvalidInput(
            "--disaggregate does not go together with --replicas, as P:D says how many there are."
        )
    if "," in on:
        raise InvalidInput(
            f"--disaggregate takes no replicas that differ within a pool, as '{on}' names. Write "
            "the kind of prefill and of decode instances as PREFILL:DECODE, such as "
            "h100-sxm:h200, and how many of each as P:D."
        )


def _require_one_pool(*options: str) -> None:
    """A colon means two pools."""
    from ..errors import InvalidInput

    for given in options:
        if ":" in given:
            raise InvalidInput(
                f"'{given}' names prefill and decode instances. Say how many of each there are "
                "with --disaggregate P:D, or name one kind."
            )


def _pools(text: str) -> tuple[int, int]:
    from ..errors import InvalidInput

    parts = text.split(":")
    if len(parts) != 2 or not all(p.strip().isdecimal() and int(p) > 0 for p in parts):
        raise InvalidInput(
            f"'{text}' does not say how many prefill and decode instances: write P:D, such as 2:1."
        )
    return int(parts[0]), int(parts[1])


def _print(report: ServingReport, server: Server, promises: list[dict[str, Any]]) -> None:
    from ..units import show_count, show_s
    from ._output import console, table

    s, out = report.summary, console()
    step = server.step
    device = s["device"] if " + " in s["device"] else step.device.name
    out.print(
        f"[bold]{step.model.name}[/] on {s['devices']:g} x [bold]{device}[/] "
        f"({_layout(s)}), engine {step.engine.id.removeprefix('engine-')}, "
        f"policy {s['policy']}: {s['requests']:,} requests over "
        f"{show_s(s['duration_s'])} of simulated time"
        + (f", {s['dropped']:,} too long and left out" if s["dropped"] else "")
    )
    out.print(f"Traffic: {s['trace']}.")
    names = {"ttft_s": "time to first token", "tpot_s": "time per output token",
             "itl_s": "between tokens", "e2e_s": "whole request"}  # fmt: skip
    rows = []
    for key, label in names.items():
        v = s[key]
        ci = (v.get("ci90") or {}).get("p99")
        rows.append([label, *(show_s(v[k]) if v[k] is not None else "-"
                              for k in ("mean", "p50", "p90", "p95", "p99")),
                     f"{show_s(max(ci[0], 0.0))} - {show_s(ci[1])}" if ci else "-"])  # fmt: skip
    out.print(table("Latency", ["", "mean", "p50", "p90", "p95", "p99", "p99, 90% interval"], rows))
    price = s["usd_per_million_output_tokens"]
    out.print(
        f"Throughput {s['throughput_output_tokens_per_s']:,.0f} output tokens/s "
        f"({s['requests_per_s']:.3g} requests/s); busy {s['utilization']:.0%} of the time, "
        f"{s['prompt_share']:.0%} of it on steps with prompts; mean batch {s['mean_batch']:.1f}."
    )
    out.print(
        f"Cache: {s['cache_blocks']:,} pages, {s['cache_use']:.0%} used, {s['preemptions']:,} "
        f"preemptions, {s['prefix_hit_ratio']:.1%} of prompt tokens from cached prefixes"
        + (f" ({s['host_hit_ratio']:.1%} of units from host memory)" if s["host_hit_ratio"] else "")
        + f". Power {s['watts_per_device']:,.0f} W per device{_clock_text(s)}, "
        f"{s['joules_per_output_token']:.3g} J per output token"
        + (f", {price:.3g} USD per million output tokens" if price is not None else "")
        + f", {show_count(s['co2_grams_per_million_output_tokens'])} g CO2 per million at "
        f"{s['co2_grams_per_kwh']:g} g/kWh."
    )
    if "pools" in s:
        out.print(_pools_text(s))
    bound = ", ".join(f"{k} {v:.0%}" for k, v in s["bound"].items() if v >= 0.005)
    out.print(f"Busy time is bound by: {bound}.")
    if s.get("outages"):
        out.print(
            f"{s['outages']} outage{'s' if s['outages'] > 1 else ''}: "
            f"replicas up {s['available_share']:.1%} of the time, "
            f"{s['rerouted_requests']:,} requests started again elsewhere, "
            f"{s['lost_tokens']:,.0f} tokens computed for nothing."
        )
    for p in promises:
        share = "" if p["share_within"] is None else f"; {p['share_within']:.1%} of requests within"
        state = "kept" if p["kept"] else "[bold]broken[/]"
        out.print(f"Promise {p['promise']}: {state} ({show_s(p['value_s'] or 0.0)}){share}.")
    if s["goodput_requests_per_s"] is not None:
        out.print(f"Goodput {s['goodput_requests_per_s']:.3g} requests/s within every promise.")
    out.print(
        f"Simulated in {s['wall_s']:.2f} s, {s['simulated_requests_per_wall_s']:,.0f} requests/s."
    )
