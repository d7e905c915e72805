"""Clocks of servers under load that lasts."""

from __future__ import annotations

import json

import pytest

from isoflop.cli import main
from isoflop.cost.engines import load_engine
from isoflop.cost.step import StepModel
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Plan
from isoflop.serving.disaggregated import simulate_split
from isoflop.serving.server import Server
from isoflop.serving.simulate import simulate
from isoflop.serving.traffic import Trace
from isoflop.serving.traffic import generate as g


def server(device: str) -> Server:
    step = StepModel(model=load_model("llama-3.1-8b"), plan=Plan(), device=load_accelerator(device),
                     engine=load_engine("vllm"))  # fmt: skip
    return Server(step=step, max_sequences=64)


def prompts(rate: float, output: float = 16.0) -> Trace:
    return g.open_loop(requests=150, requests_per_s=rate, prompt=g.Lengths(median=4000),
                       output=g.Lengths(median=output))  # fmt: skip


def test_a_load_of_prompts_that_lasts_runs_slower_than_a_short_one():
    h100 = server("h100-sxm")
    short, long = (simulate(h100, prompts(30.0), sustained=s).summary for s in (False, True))
    assert short["held_clock"] == 1.0
    assert short["allowed_clock"] < 0.95
    assert long["held_clock"] == pytest.approx(short["allowed_clock"])
    assert long["duration_s"] > 1.02 * short["duration_s"]
    assert long["watts_per_device"] <= 700.0


def test_a_light_load_lasts_at_full_clocks():
    h100 = server("h100-sxm")
    short, long = (simulate(h100, prompts(1.0, 200.0), sustained=s).summary for s in (False, True))
    assert short["allowed_clock"] == long["held_clock"] == 1.0
    assert long["e2e_s"]["mean"] == short["e2e_s"]["mean"]


def test_only_prefill_instances_of_a_split_slow_down():
    busy = simulate_split(server("h100-sxm"), prompts(9.0), prefills=1, decodes=1).summary
    idle = simulate_split(server("h100-sxm"), prompts(1.0), prefills=1, decodes=1).summary
    free = simulate_split(server("h20"), prompts(1.0), prefills=1, decodes=1).summary
    assert busy["held_clock"] < 0.97
    assert idle["held_clock"] == free["held_clock"] == 1.0


def test_the_command_says_at_which_clock(capsys):
    flags = ["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--rate", "30", "--requests", "100",
             "--prompt", "4000", "--output", "16", "--json"]  # fmt: skip
    main(flags)
    short = json.loads(capsys.readouterr().out)
    main([*flags, "--clocks", "sustained"])
    long = json.loads(capsys.readouterr().out)
    assert long["held_clock"] < short["held_clock"] == 1.0
