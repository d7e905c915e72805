import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.errors import InvalidInput
from isoflop.training.collisions import largest_load, slowest_share


@given(flows=st.integers(1, 5), paths=st.integers(1, 4))
def test_equal_to_all_ways_to_hash(flows, paths):
    counts = np.zeros(flows + 1)
    for way in itertools.product(range(paths), repeat=flows):
        counts[max(np.bincount(way, minlength=paths))] += 1
    assert largest_load(flows, paths) == pytest.approx(counts / paths**flows)


def test_two_flows_on_two_paths_collide_half_of_the_time():
    assert slowest_share(2, 2) == pytest.approx(0.75)
    assert slowest_share(8, 1) == 1.0


def test_large_counts_agree_with_drawn_ones():
    rng = np.random.default_rng(0)
    drawn = [np.bincount(rng.integers(0, 32, 32), minlength=32).max() for _ in range(20_000)]
    assert slowest_share(32, 32) == pytest.approx(np.mean(1.0 / np.array(drawn)), rel=0.01)


def test_no_flow_is_a_sentence():
    with pytest.raises(InvalidInput, match="0 flows"):
        largest_load(0, 4)
