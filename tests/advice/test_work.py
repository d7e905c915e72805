"""Corrected FLOP, convolutions, a training pass, and all-reduces over nodes."""

import re

import numpy as np
import pytest

from isoflop.advice.explain import Question
from isoflop.advice.work import convolutions, corrected_flop, training
from isoflop.cost.collectives import CollectiveParameters, collective_time_s, hierarchical_time_s
from isoflop.cost.step import StepModel
from isoflop.hardware import Tier, load_accelerator
from isoflop.models import load_model
from isoflop.plans import Plan


def step(model: str = "llama-3.1-8b") -> StepModel:
    return StepModel(model=load_model(model), plan=Plan(), device=load_accelerator("h100-sxm"))


def value(text: str) -> float:
    number, unit = text.split()
    scale = {"M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "F": 1.0}
    return float(number.replace(",", "")) * scale[unit[0]]


def test_alpha_is_large_where_memory_bounds_and_near_one_where_compute_does():
    alone = corrected_flop(step(), Question(batch=1))[2]
    prompt = corrected_flop(step(), Question(phase="prefill", batch=4, context=4096))[2]
    assert all(float(r[2]) > 50 for r in alone)
    widest = max(prompt, key=lambda r: value(r[1]))
    assert 1.0 < float(widest[2]) < 1.6


def test_convolutions_order_as_in_the_paper():
    rows = convolutions(step(), Question())[2]
    for i in range(0, len(rows), 3):
        dense, depthwise, partial = (value(r[5].replace("/s", "")) for r in rows[i : i + 3])
        assert depthwise < partial < dense
        # A partial convolution over a quarter of the channels has a sixteenth of the FLOP.
        assert value(rows[i][1]) / value(rows[i + 2][1]) == pytest.approx(16, rel=0.01)


def test_backward_is_twice_the_forward():
    rows = training(step(), Question(phase="prefill", batch=2, context=2048))[2]
    forward, inputs, weights = (value(r[1]) for r in rows[:3])
    assert (inputs + weights) / forward == pytest.approx(2.0, rel=0.06)
    assert [r[0] for r in rows][-1] == "optimizer (Adam)"


def test_all_sections_print(capsys):
    from isoflop.cli import main

    main(["explain", "llama-3.1-8b", "--on", "h100-sxm", "--show", "all"])
    out = capsys.readouterr().out
    for title in ("Corrected FLOP", "achieved FLOP/s", "A training pass", "Weight formats"):
        assert re.search(title, out)


def test_hierarchical_all_reduce():
    p = CollectiveParameters(fixed=0.0, hop=0.0, low_latency=0.5, bulk_fixed=0.0, bulk=1.0)
    fast = Tier(name="nv", devices=8, link_bytes_per_s=400e9, latency_s=0.0, source="x")
    slow = Tier(name="ib", devices=64, link_bytes_per_s=50e9, latency_s=0.0, source="x")
    m = np.array([1e9])
    t = float(hierarchical_time_s(p, p, m, 64, 8, inner_tier=fast, outer_tier=slow)[0])
    # Closed form: 2 (7/8) m / fast + 2 (7/8) (m / 8) / slow.
    assert t == pytest.approx(2 * 7 / 8 * 1e9 / 400e9 + 2 * 7 / 8 * 1e9 / 8 / 50e9)
    flat = collective_time_s(p, "all_reduce", m, 64, link_bytes_per_s=50e9)
    assert t < float(flat[0])
