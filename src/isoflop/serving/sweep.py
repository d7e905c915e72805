"""Many simulations: the product of lists of settings, resumable line by line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from pathlib import Path
from typing import Any

from ..errors import InvalidInput, IsoflopError

KEPT = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "throughput_output_tokens_per_s", "mean_batch",
        "cache_use", "preemptions", "utilization", "usd_per_million_output_tokens",
        "joules_per_output_token")  # fmt: skip
"""What a sweep keeps of each simulation."""

Setting = Mapping[str, Any]


def points(lists: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the lists' values."""
    names = list(lists)
    return [dict(zip(names, values)) for values in itertools.product(*lists.values())]


def run_point(base: Setting, point: Setting) -> dict[str, Any]:
    """One simulation; a combination that cannot run gives its reason."""
    from ..cost.engines import named_engine
    from ..cost.step import StepModel
    from ..hardware import load_fleet
    from ..models import load_model
    from ..plans import Formats, Plan, parse_plan
    from .server import Server
    from .simulate import simulate
    from .traffic import generate, read_trace

    s = {**base, **point}
    try:
        device, count, cluster = load_fleet(s["on"])
        model = load_model(s["model"])
        formats = Formats.for_model(model, s["weights"], kv=s["kv"])
        plan = parse_plan(s["plan"], formats) if s["plan"] else Plan(tensor=count, formats=formats)
        plan.check(model)
        step = StepModel(model=model, plan=plan, device=device, cluster=cluster,
                         engine=named_engine(s["engine"]))  # fmt: skip
        server = Server(step=step, policy=s["policy"], max_sequences=s["max_sequences"],
                        max_tokens=s["max_tokens"])  # fmt: skip
        if s["traffic"]:
            trace = read_trace(s["traffic"])
            trace = trace.at_rate(s["rate"]) if s["rate"] else trace
        else:
            trace = generate.open_loop(
                requests=s["requests"], requests_per_s=s["rate"] or 1.0,
                prompt=generate.Lengths.parse(s["prompt"]),
                output=generate.Lengths.parse(s["output"]),
            )  # fmt: skip
        summary = simulate(server, trace, drop_long=True).summary
    except IsoflopError as error:
        return {**point, "error": str(error)}
    return {**point, **{k: summary[k] for k in KEPT}}


def key_of(point: Setting) -> str:
    """What tells points apart in a file of results."""
    return json.dumps(dict(point), sort_keys=True)


def finished(path: Path, names: Sequence[str], base: Setting) -> dict[str, dict[str, Any]]:
    """Results already in the file, by key.

    Raises
    ------
    InvalidInput
        If the file is of another sweep.
    """
    if not path.exists():
        return {}
    found: dict[str, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut off by an interruption: that point runs again
        if number == 1:
            if row != {"sweep": dict(base)}:
                raise InvalidInput(
                    f"'{path}' holds a sweep with other settings. Name another file, or delete it."
                )
            continue
        found[key_of({n: row[n] for n in names})] = row
    return found


def sweep(
    base: Setting, lists: Mapping[str, Sequence[Any]], path: Path, executor: Executor,
    progress: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Run every combination that the file does not hold yet, appending each result as it comes.

    An interruption loses at most the simulations under way.
    """
    wanted = points(lists)
    done = finished(path, list(lists), base)
    left = [p for p in wanted if key_of(p) not in done]
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"'{path}' cannot be written: {error.strerror}.") from None
    with file:
        if path.stat().st_size == 0:
            file.write(json.dumps({"sweep": dict(base)}) + "\n")
        elif not path.read_text(encoding="utf-8").endswith("\n"):
            file.write("\n")
        file.flush()
        waiting = {executor.submit(run_point, dict(base), p): p for p in left}
        for future in as_completed(waiting):
            row = future.result()
            done[key_of(waiting[future])] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            if progress is not None:
                progress((len(done) - len(wanted) + len(left)) / max(len(left), 1))
    return [done[key_of(p)] for p in wanted]
