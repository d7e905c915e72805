"""`isoflop measure LOG MODEL --on DEVICE`: calibrate a server on a run of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def measure(
    log: Path,
    model: str,
    *,
    on: str,
    plan: str = "",
    weights: str = "",
    kv: str = "bf16",
    engine: str = "vllm",
    max_sequences: int = 256,
    max_tokens: int = 8192,
    max_context: int = 0,
    cache_blocks: int = 0,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Calibrate a server on a run of its own: four numbers from half of its requests.

    Parameters
    ----------
    log
        Benchmark log of the run: JSONL with arrival_time, input_toks, output_toks, queued_ts and
        last_token_ts per request.
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
    json
        Print JSON.
    """
    from ..serving.measure import calibrate, read_latencies
    from ..serving.server import Server
    from ..serving.traffic import read_trace
    from ._output import console, print_json
    from .explain import build_step

    trace = read_trace(log)
    latencies = read_latencies(log)
    step = build_step(model, on, plan, weights, "", kv, engine)
    server = Server(step=step, max_sequences=max_sequences, max_tokens=max_tokens,
                    max_context=max_context, cache_blocks=cache_blocks)  # fmt: skip
    found, _ = calibrate(server, trace, latencies)
    if json:
        print_json(found.row())
        return
    out = console()
    out.print(
        f"{found.fitted} requests fitted, {found.checked} checked. Mean error of their end-to-end "
        f"latency: {found.before:.1%} before, {found.after:.1%} after; one constant "
        f"{found.baseline:.0%}."
    )
    out.print(
        f"Decoding kernels x {found.decode:.3f}, prompt kernels x {found.prompt:.3f}, "
        f"{found.step_s * 1e3:.2f} ms more per step, {found.sequence_s * 1e6:.0f} us more per "
        "running sequence."
    )
