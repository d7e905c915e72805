"""A small generated trace to try `simulate` and `advise` on: no measured data."""

from __future__ import annotations

from pathlib import Path

from .traffic import generate

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


def demo_file() -> Path:
    """The shipped file of `demo_trace()`."""
    return FILE
