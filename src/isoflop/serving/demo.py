"""A small generated trace to try `simulate` and `advise` on: no measured data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .traffic import generate

if TYPE_CHECKING:
    from ..cost.features import Array
    from .server import Server
    from .traffic import Trace

FILE = Path(__file__).parent.parent / "data" / "demo" / "trace.csv"


def demo_trace(seed: int = 7) -> str:
    """A plain CSV: 1,500 chat-like requests, bursty, about 20 per second."""
    trace = generate.open_loop(
        requests=1500, requests_per_s=20.0, prompt=generate.Lengths(median=700, p90=2500,
        most=8000), output=generate.Lengths(median=150, p90=450, most=2000), burstiness=0.5,
        seed=seed,
    )  # fmt: skip
    lines = ["arrival_s,prompt_tokens,output_tokens"]
    lines += [f"{a:.3f},{p},{o}" for a, p, o in
              zip(trace.arrival_s, trace.prompt_tokens, trace.output_tokens)]  # fmt: skip
    return "\n".join(lines) + "\n"


DEMO_NUMBERS = (1.08, 0.95, 4e-4, 5e-6)
"""What the generated run hides: factors on decoding and prompt kernels, s per step and sequence."""


def demo_run(server: Server, requests: int = 240, seed: int = 7) -> tuple[Trace, Array]:
    """A run to try `measure` on: generated, not measured.

    The demo trace's first requests on a server whose kernels and steps differ from the model's by
    `DEMO_NUMBERS`; end-to-end seconds in order of arrival, with 2% of noise.
    """
    import numpy as np
    from attrs import evolve

    from .measure import engine_with
    from .simulate import simulate
    from .traffic import read_trace

    trace = read_trace(demo_file()).take(np.arange(requests))
    other = evolve(server, step=evolve(server.step, engine=engine_with(server.step, *DEMO_NUMBERS)))
    latency = simulate(other, trace).collected.e2e_s
    return trace, latency * np.random.default_rng(seed).lognormal(0.0, 0.02, len(latency))


def demo_file() -> Path:
    """The shipped file of `demo_trace()`."""
    return FILE
