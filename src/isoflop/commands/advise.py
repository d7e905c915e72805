"""`isoflop advise MODEL --on FLEET --slo ...`: the cheapest configuration under a promise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ._traffic import DEFAULT_TRAFFIC, Traffic

if TYPE_CHECKING:
    from ..serving.search import Advice, Confirmed


FRONT = 5
"""Rows of the front that the screen shows."""
SHOWN = 13
"""Finalists that it shows."""


def advise(
    model: str,
    *,
    on: str,
    slo: str = "ttft<500ms@p99,tpot<50ms@p95",
    traffic: Traffic = DEFAULT_TRAFFIC,
    weights: str = "",
    kv: str = "",
    engine: str = "vllm",
    capacity: Annotated[bool, Parameter(negative=())] = False,
    loads: str = "",
    json: Annotated[bool, Parameter(negative=())] = False,
    plot: Path | None = None,
) -> None:
    """The cheapest serving configuration that keeps a latency promise, and why.

    Parameters
    ----------
    model
        Catalog id or alias, or a Hugging Face config.json.
    on
        Fleets to choose from, comma-separated: 8xh100-sxm or 8xh100-sxm,8xl40s. A price of yours
        in USD per device-hour follows @: 8xh100-sxm@2.10,8xmi300x@3.20.
    slo
        Promises: metric<time@point, comma-separated; metrics ttft, tpot, itl, e2e.
    weights
        Weight formats to consider, comma-separated; default: as published where that is below
        16 bits, else bf16, and fp8 where it is native.
    kv
        Cache formats to consider, likewise.
    engine
        Engine whose overheads apply: vllm, vllm-v0 (before 0.8), sglang, trtllm or default; or a
        file that measure --out wrote.
    capacity
        Also find the highest load the configuration carries, and what multiples of it need.
    loads
        Loads in requests per second, or of a closed loop in clients, to size the fleet for,
        comma-separated; implies --capacity.
    json
        Print JSON.
    plot
        Write a chart of price against time per token: .svg, .png or .html.
    """
    import os

    # Its arrays are small: threads for products would take longer to start than they save.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from ..cost.engines import named_engine
    from ..formats import load_format
    from ..hardware import load_fleet
    from ..models import load_asked
    from ..serving.search import advise as search
    from ..serving.sensitivity import sensitivity
    from ..serving.slo import parse_slo

    promises = parse_slo(slo)
    fleets = [load_fleet(f.strip()) for f in on.split(",") if f.strip()]
    formats = {k: [f.strip() for f in v.split(",") if f.strip()]
               for k, v in (("weights", weights), ("kv", kv))}  # fmt: skip
    for name in (*formats["weights"], *formats["kv"]):
        load_format(name)
    spec = load_asked(model)
    trace = traffic.trace(spec.max_context)
    if traffic.drop_long:
        import numpy as np

        fits = trace.prompt_tokens + trace.output_tokens <= spec.max_context
        trace = trace if fits.all() else trace.take(np.nonzero(fits)[0])
    found = search(
        spec, fleets, trace, promises, named_engine(engine), weights=formats["weights"],
        caches=formats["kv"],
    )  # fmt: skip
    changes = []
    if found.best is not None:
        best = found.best.candidate
        fleet = next(n for d, n, _ in fleets if d.id == best.step.device.id)
        changes = sensitivity(best, found.load, promises, fleet)
    room = _capacity(found, trace, loads) if capacity or loads else None
    if json:
        from ..serving.launch import commands
        from ._output import print_json

        extra: dict[str, Any] = {"sensitivity": changes, "launch": {}}
        if found.best is not None:
            extra["launch"] = commands(found.best.candidate, found.load.longest)
        if room is not None:
            extra["capacity"] = room
        print_json({**found.as_dict(), **extra})
    else:
        _print(found, changes)
        if room is not None:
            _print_capacity(room)
    if plot is not None:
        from ..plots.serving import front
        from ._output import write_chart

        write_chart(front(found), plot, quiet=json)


def _capacity(found: Advice, trace: Any, loads: str) -> dict[str, Any]:
    """Highest load of the chosen configuration, and devices for several loads."""
    from ..errors import InvalidInput
    from ..serving.capacity import capacity, load_table, usual_loads

    if found.best is None:
        raise InvalidInput(
            "No configuration keeps the promises at the trace's own load, so none has a capacity "
            "to speak of. Loosen the promise or lower the load (--rate, --clients)."
        )
    try:
        wanted = [float(x) for x in loads.split(",") if x.strip()]
    except ValueError:
        raise InvalidInput(f"'{loads}' is not a list of loads: write 10,50,200.") from None
    closed = found.load.clients > 0
    if closed and any(x != round(x) for x in wanted):
        raise InvalidInput(f"Loads of a closed loop are whole numbers of clients, not '{loads}'.")
    if any(not 0 < x < 1e6 for x in wanted):
        raise InvalidInput(
            f"Loads lie between 0 and a million {'clients' if closed else 'requests per second'}, "
            f"not '{loads}'."
        )
    best = found.best.candidate
    if best.prefills:
        raise InvalidInput(
            f"The chosen configuration has {best.prefills} prefill and {best.decodes} decode "
            "instances, and --capacity is about equal replicas. Vary --rate instead."
        )
    result = capacity(best.server(), trace, found.promises, best.replicas)
    each = best.usd_per_hour / best.devices if best.step.device.price else None
    rows = load_table(
        best, result,
        wanted or usual_loads(found.load.clients or found.load.requests_per_s, closed),
        lambda devices: None if each is None else each * devices,
    )  # fmt: skip
    return {
        "configuration": best.describe(), "replica_devices": best.step.plan.devices,
        "requests_per_s_per_replica": result.requests_per_s, "blocked_by": result.blocked_by,
        "trials": result.trials, "loads": rows,
        **({"clients_per_replica": result.clients} if closed else {}),
    }  # fmt: skip


def _print_capacity(room: dict[str, Any]) -> None:
    from ._output import console, table

    out = console()
    rate, clients = f"{room['requests_per_s_per_replica']:.3g} requests/s", None
    if "clients_per_replica" in room:
        clients = room["clients_per_replica"]
        rate = f"{clients:,} clients, who make {rate}"
    above = f"above it {room['blocked_by']} breaks"
    if not room["blocked_by"]:
        above = "no promise broke at any load tried: the queue grows, so promise a TTFT or e2e too"
    out.print(
        f"One replica ({room['replica_devices']} devices) keeps every promise up to {rate}; "
        f"{above} ({room['trials']} loads simulated)."
    )
    rows = [[f"{r['requests_per_s']:.3g}" if clients is None else f"{r['clients']:,}",
             str(r["replicas"]), str(r["devices"]),
             "-" if r["usd_per_hour"] is None else f"{r['usd_per_hour']:,.2f}"]
            for r in room["loads"]]  # fmt: skip
    out.print(
        table(
            "Devices by load",
            ["requests/s" if clients is None else "clients", "replicas", "devices", "USD/h"],
            rows,
        )
    )


def _print(found: Advice, changes: list[dict[str, Any]]) -> None:
    from ..serving.launch import commands
    from ..units import show_s
    from ._output import console, table

    out, load = console(), found.load
    promised = ", ".join(str(p) for p in found.promises)
    who = f"{load.requests_per_s:.3g} requests/s"
    if load.clients:
        who = f"{load.clients:,} clients"
        who += f" that pause {show_s(load.think_s)} between requests" if load.think_s else ""
    out.print(
        f"Traffic of {who}, {load.prompt:,.0f} prompt and "
        f"{load.output:,.0f} output tokens on average; promised: {promised}."
    )
    if found.best is None:
        _print_failure(found)
        return
    best = found.best
    c, s = best.candidate, best.report.summary
    price = s["usd_per_million_output_tokens"]
    out.print(f"[bold]Use {c.describe()}.[/]")
    if c.step.device.price is not None:
        cost = f"{c.usd_per_hour:,.2f} USD per hour"
        cost += f", {price:.3g} USD per million output tokens" if price else ""
        out.print(f"{cost}; simulated on the trace, busy {s['utilization']:.0%} of the time.")
    if load.clients:
        out.print(f"So served the clients make {s['requests_per_s']:.3g} requests/s.")
    rows = []
    shown = found.finalists[:SHOWN]
    for f in shown:
        v = f.report.summary
        cells = [f.candidate.short(), f"{f.candidate.usd_per_hour:,.2f}" if c.step.device.price else
                 _devices(f.candidate.devices), show_s(v["ttft_s"]["p99"]),
                 _time(v["tpot_s"]["p95"]), show_s(v["e2e_s"]["p99"]), f"{v['utilization']:.0%}",
                 "chosen" if f is best else _why_lost(f, best)]  # fmt: skip
        rows.append(cells)
    needs = "USD/h" if c.step.device.price else "needs"
    columns = ["configuration", needs, "ttft p99", "tpot p95", "e2e p99", "busy", "verdict"]
    more = len(found.finalists) - len(shown)
    title = "Simulated finalists, cheapest first" + (f" ({more} more with --json)" if more else "")
    out.print(table(title, columns, rows, wrap=True))
    if any(f.candidate.prefills for f in found.finalists):
        out.print("a+b: a instances for prompts and b for decoding.\n")
    rows = [[r["change"], "-" if r["devices"] is None else str(r["devices"]),
             _time(r["tpot_s"]), "-" if r["batch"] is None else f"{r['batch']:.1f}"]
            for r in changes]  # fmt: skip
    out.print(table("If something changed (closed form, same plan)", ["", "devices", "mean tpot",
              "mean batch"], rows))  # fmt: skip
    _print_front(found)
    _print_counts(found)
    split = " of each pool, and what stands in front" if c.prefills else ""
    out.print(f"To start one replica{split}:")
    for lines in commands(c, load.longest).values():
        for line in lines.splitlines():
            print("  " + line)


def _print_front(found: Advice) -> None:
    """What no other configuration beats on both price and time per token, in the closed form."""
    from ..units import show_s
    from ._output import console, table

    front = found.pareto()
    if len(front) < 2 or found.candidates[0].step.device.price is None:
        return
    shown = front[:FRONT]
    rows = [[r["configuration"], f"{r['usd_per_hour']:,.2f}", show_s(r["tpot_s"]),
             show_s(r["ttft_s"])] for r in shown]  # fmt: skip
    more = f", {len(front) - len(shown)} more with --json" if len(front) > len(shown) else ""
    console().print(table(f"Front of price and latency (closed form{more})",
                          ["", "USD/h", "mean tpot", "mean ttft"], rows, wrap=True))  # fmt: skip


def _time(value: float | None) -> str:
    from ..units import show_s

    return "-" if value is None else show_s(value)


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _why_lost(f: Confirmed, best: Confirmed) -> str:
    if f.broken:
        return "; ".join(f.broken)
    more = f.candidate.usd_per_hour / best.candidate.usd_per_hour - 1.0
    if more > 0.005:
        return f"{more:.0%} dearer"
    if f.candidate.prefills:
        return "two pools, no cheaper"
    if f.candidate.requests_per_s:
        return "slower"
    return "less room" if f.strain > 1.02 * best.strain else "no more room"


def _print_counts(found: Advice) -> None:
    from ._output import console

    reasons = ", ".join(f"{n:,} by {kind}" for kind, n in sorted(found.reasons.items()))
    splits = sum(c.prefills > 0 for c in found.candidates)
    console().print(
        f"{found.evaluated:,} configurations evaluated, {len(found.candidates):,} feasible in the "
        f"closed form, {found.pruned:,} ruled out{f' ({reasons})' if reasons else ''}, "
        f"{len(found.finalists)} simulated; {found.wall_s:.2f} s."
        + (f" {splits:,} of the feasible ones split prompts from decoding." if splits else "")
    )


def _start(found: Advice, nearest: Confirmed) -> str:
    """What a closed loop's start has to do with a promise on the first token."""
    if not found.load.clients or not any(b.startswith("ttft") for b in nearest.broken):
        return ""
    return (
        " The clients all start at once, so their first prompts wait for each other; with more "
        "--requests that round weighs less."
    )


def _print_failure(found: Advice) -> None:
    from ..errors import InvalidInput

    _print_counts(found)
    fewer = "have fewer clients" if found.load.clients else "lower the rate"
    if found.finalists:
        nearest = found.finalists[0]
        raise InvalidInput(
            "No configuration of this fleet keeps the promise. The nearest is "
            f"{nearest.candidate.describe()}, where {'; '.join(nearest.broken)}. Relax that limit, "
            f"{fewer}, or add devices.{_start(found, nearest)}"
        )
    closest = found.closest
    text = "nothing fits" if closest is None else f"{closest.what}: {closest.why}"
    raise InvalidInput(
        "No configuration of this fleet keeps the promise. The closest, "
        f"{text.removeprefix(': ')}. Relax the limit, {fewer}, or add devices."
    )
