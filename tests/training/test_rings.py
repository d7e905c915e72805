import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from isoflop.training.calibration import TrainingCalibration
from isoflop.training.compute import Network
from isoflop.training.rings import LAUNCH_S, Rings

NET = Network(node=8, inner_bytes_per_s=300e9, outer_bytes_per_s=25e9,
              inner_latency_s=0.0, outer_latency_s=0.0)  # fmt: skip
CAL = TrainingCalibration(
    id="t", family="t", source="t", scale_up=0.5, network=1.0, ramp=8e6
)  # fmt: skip


def seconds(cal, payload, ranks, stride=1):
    rings = Rings(net=NET, cal=cal)
    return float(rings.ring(payload, np.array([ranks]), np.array([stride]))[0])


def test_a_message_of_the_ramp_reaches_half_the_share():
    moving = seconds(CAL, 8e6, 8) - LAUNCH_S
    assert moving == pytest.approx(2 * 8e6 * 7 / 8 / 150e9)
    assert seconds(evolve(CAL, ramp=0.0), 8e6, 8) - LAUNCH_S == pytest.approx(moving / 2)


def test_large_messages_reach_the_share_and_one_rank_nothing():
    assert seconds(CAL, 8e9, 8) == pytest.approx(8e9 * 7 / 8 / 150e9, rel=2e-3)
    assert seconds(CAL, 8e9, 1) == 0.0


def test_a_ring_across_nodes_enters_through_as_many_adapters_as_it_has_members():
    free = evolve(CAL, ramp=0.0)
    one = seconds(free, 1e9, 16, stride=8)
    eight = seconds(free, 1e9, 16, stride=2)
    assert one / eight == pytest.approx(4, rel=0.01)


@given(ranks=st.sampled_from([2, 4, 8, 16, 64]), strides=st.lists(st.sampled_from([1, 2, 4, 8]),
       min_size=2, max_size=2), payload=st.floats(1e3, 1e10))  # fmt: skip
def test_ranks_further_apart_are_never_quicker(ranks, strides, payload):
    """Why context ranks outside data ranks are no order worth a search."""
    near, far = (seconds(CAL, payload, ranks, s) for s in sorted(strides))
    assert near <= far
