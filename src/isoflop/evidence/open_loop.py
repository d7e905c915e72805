"""Rows measured under timed arrivals: the whole run is simulated."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cost.step import StepModel
from ..serving.server import Server
from ..serving.simulate import simulate
from ..serving.traffic.generate import Lengths, open_loop
from .case import Case

SEEDS = 3
"""Arrival patterns a prediction averages over: sources state the rate, not the times."""


def predict_open(step: StepModel, case: Case) -> float:
    """The case's metric from simulated runs of as many requests at the same rate.

    Sources state mean lengths only, so all requests have those; TTFT and TPOT are medians, as such
    rows are.
    """
    assert case.arrivals is not None
    # Engines state the limit of one attention rank.
    server = Server(
        step=step,
        max_sequences=case.arrivals.max_sequences * step.plan.data,
        max_tokens=case.arrivals.max_tokens,
    )
    return float(np.mean([_run(server, case, seed) for seed in range(SEEDS)]))


def _run(server: Server, case: Case, seed: int) -> float:
    assert case.arrivals is not None
    trace = open_loop(
        requests=case.arrivals.requests,
        requests_per_s=case.arrivals.requests_per_s,
        prompt=Lengths(median=case.prompt_tokens),
        output=Lengths(median=case.output_tokens),
        seed=seed,
    )
    summary: dict[str, Any] = simulate(server, trace).as_dict()
    if case.metric == "output_tokens_per_s":
        return summary["throughput_output_tokens_per_s"]
    return summary[case.metric]["p50"]
