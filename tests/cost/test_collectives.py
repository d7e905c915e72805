import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.cost.collectives import collective_time_s, link_bytes, over_host, tier_for
from isoflop.cost.features import Batch
from isoflop.cost.kernels.calibration import load_kernels
from isoflop.cost.operators.base import CollectiveShape
from isoflop.cost.step import StepModel
from isoflop.errors import InvalidInput
from isoflop.hardware import load_accelerator, load_cluster
from isoflop.models import load_model
from isoflop.plans import Plan
from tests.shared_data import data

P = load_kernels("hopper")[0].nccl["all_reduce"]


@pytest.mark.parametrize(
    ("pattern", "ranks", "factor"),
    [("all_reduce", 8, 1.75), ("all_gather", 8, 0.875), ("all_to_all", 4, 0.75),
     ("send_recv", 2, 1.0)],
)  # fmt: skip
def test_bytes_on_the_link(pattern, ranks, factor):
    assert link_bytes(pattern, ranks) == factor


def test_large_messages_approach_the_fitted_share_of_the_link():
    m = 1e12
    t = float(collective_time_s(P, "all_reduce", m, 8, link_bytes_per_s=450e9))
    assert t == pytest.approx(m * 1.75 / (450e9 * max(P.bulk, P.low_latency)), rel=0.3)


@given(st.floats(1, 1e9), st.sampled_from([2, 4, 8]))
def test_time_grows_with_bytes_and_is_never_free(m, ranks):
    one, two = (
        float(collective_time_s(P, "all_reduce", v, ranks, link_bytes_per_s=450e9))
        for v in (m, 2 * m)
    )
    assert two >= one >= P.fixed


def test_one_rank_and_nothing_to_send_cost_nothing():
    assert collective_time_s(P, "all_reduce", 1e6, 1, link_bytes_per_s=1e9) == 0
    assert collective_time_s(P, "all_reduce", 0.0, 8, link_bytes_per_s=1e9) == 0
    with pytest.raises(InvalidInput, match="at least 1"):
        collective_time_s(P, "all_reduce", 1.0, 0, link_bytes_per_s=1e9)


def test_ranks_beyond_the_node_use_the_network():
    device, cluster = load_accelerator("h100"), load_cluster("dgx-h100")
    assert (
        tier_for(device, cluster, 8).link_bytes_per_s
        > tier_for(device, cluster, 16).link_bytes_per_s
    )
    assert tier_for(device, None, 8).name.startswith("NVLink")


def test_measured_all_reduce_within_fifteen_percent():
    pq = pytest.importorskip("pyarrow.parquet")
    path = data("operators/aiconfigurator/h200_sxm/comm/vllm/0.24.0/custom_allreduce_perf.parquet")
    rows = [
        r for r in pq.read_table(path).to_pylist()
        if r["kernel_source"] == "vLLM_custom_graph" and r["message_size"] <= 2**27
    ]  # fmt: skip
    p = load_kernels("hopper")[0].all_reduce_custom
    error = [
        abs(float(collective_time_s(p, "all_reduce", 2.0 * r["message_size"], r["num_gpus"],
                                    link_bytes_per_s=450e9)) / (r["latency"] * 1e-3) - 1)
        for r in rows
    ]  # fmt: skip
    assert np.median(error) <= 0.15


def test_exchange_sends_each_token_once_per_node():
    from isoflop.cost.collectives import CollectiveParameters, exchange_time_s
    from isoflop.hardware import Tier

    ideal = CollectiveParameters(fixed=0, hop=0, bulk_fixed=0, low_latency=1, bulk=1)
    near = Tier(name="near", devices=8, link_bytes_per_s=1e30, latency_s=0, source="x")
    far = Tier(name="far", devices=64, link_bytes_per_s=1.0, latency_s=0, source="x")
    # 8 copies over 4 nodes, 1 byte each: 3 (1 - (3/4)^8) nodes visited besides the own.
    seconds = exchange_time_s(ideal, 8.0, 8.0, 32, 8, inner_tier=near, outer_tier=far)
    assert float(seconds) == pytest.approx(3 * (1 - 0.75**8))
    # Monte Carlo of the same.
    rng = np.random.default_rng(0)
    nodes = rng.integers(0, 4, (200_000, 8))
    visited = np.mean([len(set(row) - {0}) for row in nodes[:20_000]])
    assert float(seconds) == pytest.approx(visited, rel=0.01)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_cards_without_links_share_one_host_path(ranks):
    direct = load_kernels("hopper")[0].nccl["all_reduce"]
    met = over_host(direct, ranks)
    large = 1e9
    near, far = (float(collective_time_s(p, "all_reduce", large, ranks, link_bytes_per_s=32e9))
                 for p in (direct, met))  # fmt: skip
    # Two cards reach each other directly; n share the path, each has an n-th of it.
    assert far / near == pytest.approx(1.0 if ranks == 2 else ranks, rel=0.02)


def test_pcie_cards_of_a_family_measured_over_nvlink_meet_over_the_host():
    def network_s(device: str, ranks: int) -> float:
        step = StepModel(model=load_model("llama-3.1-70b"), plan=Plan(tensor=ranks),
                         device=load_accelerator(device))  # fmt: skip
        sent = np.array([isinstance(op.shape, CollectiveShape) for op in step.operators])
        batch = Batch(decode_sequences=128.0, decode_context=1024.0)
        return float(step.operator_s(batch)[sent].sum())

    # An A100 over PCIe has a bridge for two cards, and over NVLink a switch for eight.
    assert network_s("a100-80gb-pcie", 4) > 5 * network_s("a100-80gb-sxm", 4)
    assert network_s("a100-80gb-pcie", 8) > 1.5 * network_s("a100-80gb-pcie", 4)
    assert network_s("a100-80gb-pcie", 2) < 2 * network_s("a100-80gb-sxm", 2)
