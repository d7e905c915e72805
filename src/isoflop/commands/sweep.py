"""`isoflop sweep MODEL --on FLEET --rate 1,2,4 --out FILE`: many simulations, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ._options import Count


def sweep(
    model: str,
    *,
    on: str,
    out: Path,
    rate: str = "",
    max_sequences: str = "256",
    max_tokens: str = "8192",
    policy: str = "vllm",
    plan: str = "",
    weights: str = "",
    kv: str = "bf16",
    engine: str = "vllm",
    traffic: str = "",
    requests: Count = 1000,
    prompt: str = "512/1500",
    output: str = "128/400",
    workers: int = 0,
    cluster: str = "",
    json: Annotated[bool, Parameter(negative=())] = False,
    plot: Path | None = None,
) -> None:
    """Many simulations over lists of settings, on all cores, resumable.

    Parameters
    ----------
    model
        Catalog id or alias, or a Hugging Face config.json.
    on
        Devices of one replica.
    out
        File of results, one JSON line each; an interrupted sweep goes on where it stopped.
    rate
        Requests per second, comma-separated; may be empty with a trace.
    max_sequences
        Most running sequences, comma-separated.
    max_tokens
        Token budgets of a step, comma-separated.
    policy
        Scheduling policies, comma-separated.
    plan
        Parallel plans, separated by semicolons: tp2;tp4;tp8.
    weights
        Weight formats, comma-separated; default: as published below 16 bits, else bf16.
    kv
        Cache formats, comma-separated.
    engine
        Engine whose overheads apply.
    traffic
        Trace file.
    requests
        Requests to generate without a trace.
    prompt
        Generated prompt tokens, median/90th percentile.
    output
        Generated output tokens, likewise.
    workers
        Processes; 0: one per core.
    cluster
        Address of a Dask cluster, tcp://host:port, instead of this machine.
    json
        Print JSON.
    plot
        Draw latency against load: .svg, .png or .html.
    """
    from ..executors import make_executor
    from ..serving.sweep import sweep as run
    from ._output import print_json, progress_bar

    lists: dict[str, list[Any]] = {
        "rate": _numbers(rate, float, "rate") or [0.0],
        "max_sequences": _numbers(max_sequences, int, "max-sequences"),
        "max_tokens": _numbers(max_tokens, int, "max-tokens"),
        "policy": _words(policy, ","), "plan": _words(plan, ";") or [""],
        "weights": _words(weights, ",") or [""], "kv": _words(kv, ","),
    }  # fmt: skip
    base = {"model": model, "on": on, "engine": engine, "traffic": traffic, "requests": requests,
            "prompt": prompt, "output": output}  # fmt: skip
    with make_executor(workers, cluster) as executor, progress_bar("simulations", True) as shown:
        rows = run(base, lists, out, executor, shown)
    if json:
        print_json(rows)
    else:
        _print(rows, [n for n, v in lists.items() if len(v) > 1] or ["rate"])
        print(f"Results in {out}.")
    if plot is not None:
        from ..plots.serving import load_curve
        from ._output import write_chart

        write_chart(load_curve([r for r in rows if "error" not in r]), plot, quiet=json)


def _print(rows: list[dict[str, Any]], varied: list[str]) -> None:
    """One line per simulation, by the settings that vary."""
    from ..units import show_s
    from ._output import console, table

    cells = []
    for r in rows:
        head = [str(r[n]) for n in varied]
        if "error" in r:
            cells.append([*head, "-", "-", "-", "-", r["error"]])
            continue
        cells.append([
            *head, show_s(r["ttft_s"]["p99"]),
            "-" if r["tpot_s"]["p99"] is None else show_s(r["tpot_s"]["p99"]),
            f"{r['throughput_output_tokens_per_s']:,.0f}", f"{r['utilization']:.0%}", "",
        ])  # fmt: skip
    columns = [*varied, "ttft p99", "tpot p99", "tokens/s", "busy", ""]
    console().print(table("", columns, cells, wrap=True))


def _words(text: str, separator: str) -> list[str]:
    return [w.strip() for w in text.split(separator) if w.strip()]


def _numbers(text: str, kind: Any, what: str) -> list[Any]:
    from ..errors import InvalidInput

    found = []
    for word in _words(text, ","):
        try:
            value = kind(word)
        except ValueError:
            raise InvalidInput(f"--{what} has '{word}', which is not a number.") from None
        if not 0 < value < float("inf"):
            raise InvalidInput(f"--{what} has {word}; it must be above zero.")
        found.append(value)
    return found
