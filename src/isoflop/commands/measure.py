"""`isoflop measure LOG MODEL --on DEVICE`: calibrate a server on a run of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ._options import Count


def measure(
    log: Path,
    model: str,
    *,
    on: str,
    plan: str = "",
    weights: str = "",
    kv: str = "bf16",
    engine: str = "vllm",
    max_sequences: Count = 256,
    max_tokens: Count = 8192,
    max_context: Count = 0,
    cache_blocks: Count = 0,
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Calibrate a server on a run of its own: four numbers from half of its requests.

    Parameters
    ----------
    log
        Benchmark log of the run: JSONL with arrival_time, input_toks, output_toks, queued_ts and
        last_token_ts per request; demo is a generated run.
    model
        Catalog id or alias, or a Hugging Face config.json.
    on
        Device or fleet of the run.
    plan
        Parallel plan of the run.
    weights
        Number format of the weights; default: as published where that is below 16 bits, else bf16.
    kv
        Number format of the cache.
    engine
        Engine of the run.
    max_sequences
        Its most running sequences.
    max_tokens
        Its token budget per step.
    max_context
        Its longest sequence.
    cache_blocks
        Its cache pages, if its log says; default: computed.
    out
        Write the calibrated engine to this .toml: simulate, advise, explain and sweep take it as
        --engine FILE.
    json
        Print JSON.
    """
    from ..cost.engines import engine_text
    from ..errors import InvalidInput
    from ..serving.demo import demo_run
    from ..serving.measure import calibrate, read_latencies
    from ..serving.server import Server
    from ..serving.traffic import read_trace
    from ._output import console, print_json, write_whole
    from .explain import build_step

    if out is not None and out.suffix != ".toml":
        raise InvalidInput(f"An engine is written as TOML: name it {out.with_suffix('.toml')}.")
    step = build_step(model, on, plan, weights, "", kv, engine)
    server = Server(step=step, max_sequences=max_sequences, max_tokens=max_tokens,
                    max_context=max_context, cache_blocks=cache_blocks)  # fmt: skip
    if str(log) == "demo":
        trace, latencies = demo_run(server)
    else:
        trace, latencies = read_trace(log), read_latencies(log)
    found = calibrate(server, trace, latencies, log.name)
    if out is not None:
        write_whole(out, engine_text(found.engine))
    if json:
        print_json(found.row())
        return
    screen = console()
    screen.print(
        f"{found.fitted} requests fitted, {found.checked} checked. Mean error of their end-to-end "
        f"latency: {found.before:.1%} before, {found.after:.1%} after; one constant "
        f"{found.baseline:.0%}."
    )
    screen.print(
        f"Decoding kernels x {found.decode:.3f}, prompt kernels x {found.prompt:.3f}, "
        f"{found.step_s * 1e3:.2f} ms more per step, {found.sequence_s * 1e6:.0f} us more per "
        "running sequence."
    )
    if out is not None:
        screen.print(f"The calibrated engine is in {out}: use it as --engine {out}.")
