"""`isoflop explain MODEL --on DEVICE`: what bounds it, and what would help most."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from ._options import Count

if TYPE_CHECKING:
    from ..advice.explain import Explanation, Question
    from ..advice.sections import Section
    from ..cost.step import StepModel


def explain(
    model: str,
    *,
    on: str,
    batch: Count | None = None,
    context: Count = 2048,
    phase: Literal["decode", "prefill", "train"] = "decode",
    prior: Count = 0,
    clocks: Literal["burst", "sustained"] = "burst",
    plan: str = "",
    weights: str = "",
    experts: str = "",
    kv: str = "bf16",
    engine: str = "default",
    overlap: float = 0.0,
    sections: Annotated[str, Parameter(name="--show")] = "",
    json: Annotated[bool, Parameter(negative=())] = False,
    plot: Path | None = None,
) -> None:
    """What bounds a model on a device, from batch 1 to its limit, and what would help most.

    Parameters
    ----------
    model
        Catalog id or alias, or a Hugging Face config.json.
    on
        Device or fleet: h100-sxm, 8xh200, dgx-h100.
    batch
        Sequences whose operators are listed; default: the largest power of two that fits, up to
        64.
    context
        Cached tokens per sequence (decode) or prompt tokens (prefill).
    phase
        decode, prefill, or train (forward of a training step; its backward is in --show training).
    prior
        Cached tokens before the prompt's: a chunk with a prefix.
    clocks
        burst: a short run at full clocks; sustained: steps over and over, where the clock settles
        at the board's power limit.
    plan
        Parallel plan such as tp8,ep8; default: tensor parallel over the fleet.
    weights
        Number format of the linear layers; default: as published where that is below 16 bits
        (mxfp4 experts of gpt-oss, fp8 of DeepSeek-V3), else bf16.
    experts
        Number format of routed experts; default: as weights.
    kv
        Number format of the cache.
    engine
        Engine whose overheads apply: vllm, vllm-v0 (before 0.8), sglang, trtllm or default; or a
        file that measure --out wrote.
    overlap
        Share of the shorter of communication and computation that runs beside the other: 0 (an
        engine that waits for every collective) to 1 (all that can be hidden is).
    sections
        More of the answer, comma-separated: movement, io, span, formulas, systolic,
        weights, alpha, convolutions, training; or all.
    json
        Print JSON.
    plot
        Write a chart: .svg, .png or .html.
    """
    from attrs import evolve

    from ..advice.explain import Question
    from ..advice.explain import explain as answer
    from ..errors import InvalidInput
    from ._output import check_chart

    if not 0.0 <= overlap <= 1.0:
        raise InvalidInput(f"--overlap is {overlap}; it is a share, from 0 to 1.")
    step = evolve(build_step(model, on, plan, weights, experts, kv, engine), overlap=overlap)
    chosen = _default_batch(step, context) if batch is None else batch
    question = Question(phase=phase, batch=chosen, context=context, prior=prior,
                        sustained=clocks == "sustained")  # fmt: skip
    check_chart(plot)
    extra = _more(step, question, sections)
    result = answer(step, question)
    if json:
        from ._output import print_json

        print_json({**result.as_dict(), "sections": [
            {"section": name, "title": title, "columns": columns, "rows": rows, "note": note}
            for name, (title, columns, rows, note) in extra.items()
        ]})  # fmt: skip
    else:
        _print(result, question)
        from ._output import console, table

        for title, columns, rows, note in extra.values():
            console().print(table(title, columns, rows))
            console().print(note)
    if plot is not None:
        from ..plots.explain import chart
        from ._output import write_chart

        write_chart(chart(result), plot, quiet=json)


def build_step(
    model: str, on: str, plan: str, weights: str, experts: str, kv: str, engine: str
) -> StepModel:
    """The step model that the options describe, checked to fit."""
    from attrs import evolve

    from ..cost.engines import named_engine
    from ..cost.memory import memory_use, require_fit
    from ..cost.step import StepModel
    from ..errors import InvalidPlan
    from ..formats import load_format
    from ..hardware import load_fleet
    from ..models import load_asked
    from ..plans import Formats, parse_plan

    spec = load_asked(model)
    device, count, cluster = load_fleet(on)
    for name in filter(None, (weights, experts, kv)):
        load_format(name)
    chosen = parse_plan(plan, Formats.for_model(spec, weights, experts, kv))
    if not plan and count > 1:
        chosen = evolve(chosen, tensor=count)
    if chosen.devices > count > 1:
        raise InvalidPlan(
            f"The plan {chosen.describe()} needs {chosen.devices} devices and '{on}' has {count}. "
            f"Name more of them (--on {chosen.devices}x{device.id}) or lower a degree."
        )
    step = StepModel(
        model=spec, plan=chosen, device=device, cluster=cluster, engine=named_engine(engine)
    )
    use = memory_use(spec, chosen, device, step.operators, sequences=0, context=0)
    require_fit(spec, device, use, chosen)
    return step


def _default_batch(step: StepModel, context: int) -> int:
    from ..cost.memory import largest_batch

    most = largest_batch(step.model, step.plan, step.device, step.operators, context)
    batch = 1
    while batch * 2 <= min(most * step.plan.data, 64):
        batch *= 2
    return batch


def _print(result: Explanation, question: Question) -> None:
    from ..units import show_bytes, show_count, show_flop, show_rate, show_s
    from ._output import console, table

    step, out = result.step, console()
    device, plan = step.device, step.plan
    f = plan.formats
    out.print(
        f"[bold]{step.model.name}[/] on [bold]{device.name}[/] ({plan.describe()}), "
        f"{question.phase} at context {question.context:,}; weights {f.stored}, cache {f.kv}; "
        f"engine {step.engine.id.removeprefix('engine-')}"
    )
    out.print(
        f"{show_count(step.model.parameters)} parameters, "
        f"{show_count(step.model.active_parameters)} active; "
        f"{device.matrix_rate(f.of('weights'))[0] / 1e12:,.0f} TFLOP/s, "
        f"{show_rate(device.memory.bandwidth_bytes_per_s)}. Times are {step.label()}, "
        "with a 90% interval."
    )
    priced = any(r["usd_per_million_tokens"] is not None for r in result.regimes)
    columns = ["batch", "bound by", "step", "90% interval", "of limit", "comp/mem/net/fixed",
               "tok/s", "J/tok"] + ["$/Mtok"] * priced  # fmt: skip
    rows = []
    for r in result.regimes:
        part = r["shares"]
        split = "/".join(f"{part[k]:.0%}" for k in ("compute", "memory", "network", "overhead"))
        row = [
            str(r["batch"]) + ("" if r["fits"] else "*"), r["bound"], show_s(r["step_s"]),
            f"{show_s(r['low_s'])} - {show_s(r['high_s'])}", f"{r['limit_share']:.0%}", split,
            f"{r['tokens_per_s']:,.0f}", f"{r['joules_per_token']:.3g}",
        ]  # fmt: skip
        rows.append(row + ([f"{r['usd_per_million_tokens']:.3g}"] if priced else []))
    out.print(table("What bounds a step", columns, rows, left=2))
    if any(not r["fits"] for r in result.regimes):
        out.print(
            f"* does not fit: the cache holds {result.largest_batch} sequences of this context."
        )
    out.print(_crossover_text(result))
    out.print(_clock_text(result))
    at = "" if question.phase == "decode" else f" of {question.context} tokens"
    ops = [
        [o["operator"], show_flop(o["flop"]), _moved(o), f"{o['intensity']:.3g}",
         show_s(o["seconds"]), o["bound"], f"{o['share']:.1%}"]
        for o in result.operators if o["share"] > 0.004
    ]  # fmt: skip
    out.print(
        table(f"Operators at batch {question.batch}{at}", ["operator", "work", "moved", "FLOP/B",
              "time", "bound", "share"], ops)
    )  # fmt: skip
    m = result.memory
    out.print(
        f"Memory per device: weights {show_bytes(m.weights_bytes)}, cache "
        f"{show_bytes(m.cache_bytes)}, activations {show_bytes(m.activations_bytes)}, reserve "
        f"{show_bytes(m.reserve_bytes)} of {show_bytes(m.capacity_bytes)}. Largest batch at this "
        f"context {result.largest_batch:,}; largest context at batch {question.batch} "
        f"{result.largest_context:,}."
    )
    found = [[f"{x.speedup:.2f}x", x.change, x.evidence] for x in result.findings]
    title = f"What would help most at batch {question.batch}"
    out.print(table(title, ["gain", "change", "because"], found, left=3, wrap=True))


def _clock_text(result: Explanation) -> str:
    """Whether times are of a short run or a long one, and what the other takes."""
    from ..cost.sustained import JOULES_PER_FLOP
    from ..units import show_s

    c = result.clocks
    if result.step.device.family not in JOULES_PER_FLOP:
        return "Clocks: full; what products draw on this family was not measured."
    if c["sustained_clock"] >= 1.0:
        return f"Clocks: full; over and over, a step stays within {c['board_watts']:.0f} W."
    shown = {"burst": "a short run's, as above", "sustained": "a long run's, as above"}
    burst, long = (f"{show_s(c[f'{k}_s'])}" for k in ("burst", "sustained"))
    return (
        f"Clocks: {shown[c['held']]}. Over and over, {c['board_watts']:.0f} W hold "
        f"{c['sustained_clock']:.0%} of the clock: {long} a step at batch "
        f"{result.question.batch} where a short run takes {burst}."
    )


def _moved(operator: dict[str, Any]) -> str:
    """Bytes to and from memory; of a collective, the payload it sends."""
    from ..units import show_bytes

    sent = operator["sent_bytes"]
    return f"{show_bytes(sent)} sent" if sent else show_bytes(operator["bytes"])


def _crossover_text(result: Explanation) -> str:
    b = result.crossover
    if result.question.phase != "decode":
        return "Prompts reuse each weight for every token, so compute bounds all but tiny ones."
    if b is None:
        return (
            "At this context the roofline never turns to compute: each added sequence brings "
            "more cache bytes than the device can balance with its work."
        )
    return f"The whole step's roofline turns from memory to compute at batch {b:,.0f}."


def _more(step: StepModel, question: Question, sections: str) -> dict[str, Section]:
    """The sections asked for, by name."""
    from ..advice.sections import SECTIONS
    from ..errors import UnknownName

    wanted = [s.strip() for s in sections.split(",") if s.strip()]
    if "all" in wanted:
        wanted = list(SECTIONS)
    for name in wanted:
        if name not in SECTIONS:
            hint = f"It is one of: {', '.join(SECTIONS)}, or all."
            raise UnknownName("section", name, SECTIONS, hint)
    return {name: SECTIONS[name](step, question) for name in wanted}
