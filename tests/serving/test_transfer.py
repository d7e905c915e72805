"""Caches on their way between instances."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from isoflop.cost.engines import load_engine
from isoflop.cost.memory import cache_bytes
from isoflop.cost.step import StepModel
from isoflop.hardware import load_accelerator, load_cluster
from isoflop.models import load_model
from isoflop.plans import Formats, Plan
from isoflop.serving.transfer import transfer_s

LINK = 450e9  # NVLink of an H100, per direction
HEAD = 2 * 128 * 2  # bytes of one token, KV head and layer of Llama 3.1 8B in bf16
HEADS, LAYERS = 8, 32


def step(device="h100-sxm", model="llama-3.1-8b", cluster=None, formats=None, **plan) -> StepModel:
    return StepModel(
        model=load_model(model), plan=Plan(formats=formats or Formats(), **plan),
        device=load_accelerator(device), engine=load_engine("vllm"),
        cluster=load_cluster(cluster) if cluster else None,
    )  # fmt: skip


def moved(source: int, target: int) -> float:
    """Bytes of a token on the busiest rank, head by head, each head read from its holders."""
    out, into = np.zeros(source), np.zeros(target)
    for head, rank in itertools.product(range(HEADS), range(target)):
        if head * target // HEADS == rank or (target > HEADS and rank * HEADS // target == head):
            holders = [r for r in range(source) if head * source // HEADS == r
                       or (source > HEADS and r * HEADS // source == head)]  # fmt: skip
            into[rank] += HEAD * LAYERS
            out[holders] += HEAD * LAYERS / len(holders)
    return max(out.max(), into.max())


@pytest.mark.parametrize("source", [1, 2, 4])
@pytest.mark.parametrize("target", [1, 2, 4])
def test_shards_are_laid_anew_head_by_head(source, target):
    sent = transfer_s(step(tensor=source), np.array([1000, 3000]), step(tensor=target))
    assert sent[1] - sent[0] == pytest.approx(2000 * moved(source, target) / LINK, rel=1e-12)


@pytest.mark.parametrize(("source", "target"), [(16, 2), (2, 16), (16, 16), (1, 16)])
def test_replicated_heads_are_read_by_every_rank_that_keeps_them(source, target):
    network = 50e9  # more than eight devices
    sent = transfer_s(step(tensor=source), np.array([1000, 3000]), step(tensor=target))
    assert sent[1] - sent[0] == pytest.approx(2000 * moved(source, target) / network, rel=1e-12)


def test_an_instance_like_the_sender_is_the_default():
    one, prompt = step(tensor=2), np.array([1, 77, 9000])
    assert np.array_equal(transfer_s(one, prompt), transfer_s(one, prompt, step(tensor=2)))


def test_stages_send_the_layers_they_hold():
    # Two stages of two ranks hold what four ranks of one stage hold.
    prompt = np.array([4000])
    for to in (step(tensor=4), step()):
        assert transfer_s(step(tensor=2, pipeline=2), prompt, to) == pytest.approx(
            transfer_s(step(tensor=4), prompt, to), rel=1e-12
        )


def test_the_slower_end_decides():
    prompt, token = np.array([1000, 3000]), HEAD * HEADS * LAYERS

    def each(source, target) -> float:
        sent = transfer_s(source, prompt, target)
        return float(sent[1] - sent[0]) / 2000

    h100, h200, l40s = step(), step("h200"), step("l40s")
    assert each(h100, h200) == each(h200, h100) == pytest.approx(token / 50e9)
    # Another kind of device is in another node, whose adapter hangs on the L40S's PCIe.
    host = l40s.device.links.host_bytes_per_s
    assert host < 50e9
    assert each(h100, l40s) == each(l40s, h100) == pytest.approx(token / host)
    # Two H100s send what one H200 receives: the one end is slower.
    assert each(step(tensor=2), h200) == pytest.approx(token / 50e9)
    assert each(step(tensor=2), step("h200", tensor=4)) == pytest.approx(token / 2 / 50e9)
    # Clusters say what joins their nodes.
    named = step("h200", cluster="hgx-h200")
    network = named.cluster.tiers[1]
    assert network.latency_s > 0
    assert transfer_s(h100, prompt, named) == pytest.approx(
        max(network.latency_s, 5e-6) + prompt * token / min(network.link_bytes_per_s, 50e9)
    )


def test_latent_caches_go_to_every_rank():
    one, four = step(model="deepseek-v2-lite"), step(model="deepseek-v2-lite", tensor=4)
    prompt = np.array([1000, 3000])
    times = {n: float(np.diff(transfer_s(a, prompt, b))[0])
             for n, a, b in (("1:1", one, one), ("1:4", one, four), ("4:1", four, one),
                             ("4:4", four, four))}  # fmt: skip
    assert times["1:4"] == pytest.approx(4 * times["1:1"])  # one link feeds four ranks
    assert times["4:1"] == pytest.approx(times["1:1"])
    assert times["4:4"] == pytest.approx(times["1:1"])


@pytest.mark.parametrize("model", ["gemma-3-12b", "nemotron-h-8b", "llama-3.1-8b"])
def test_windows_and_states_are_sent_as_they_are_kept(model):
    one = step(model=model)
    for prompt in (10, 1000, 20_000):
        held = cache_bytes(one.model, one.plan, 1.0, prompt)
        sent = float(transfer_s(one, np.array(prompt)))
        assert sent == pytest.approx(held / LINK, rel=1e-12)
