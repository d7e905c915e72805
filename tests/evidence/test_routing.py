"""How the benchmark of experts routes its tokens."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from isoflop.evidence.routing import (
    TILE_ROWS,
    _power_law,
    benchmark_routing,
    deals_in_turn,
    is_gated,
)


@given(
    tokens=st.integers(1, 3000), per_token=st.integers(1, 8), ranks=st.sampled_from([1, 2, 8]),
    exponent=st.sampled_from([1.01, 1.2]), in_turn=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_power_law_hands_out_every_pair_and_no_expert_twice(
    tokens, per_token, ranks, exponent, in_turn, seed
):
    rng = np.random.default_rng(seed)
    counts = _power_law(rng, tokens, 64, per_token, ranks, exponent, in_turn)
    assert counts.sum() == tokens * per_token
    assert counts.min() >= 0
    assert counts.max() <= tokens


def test_balanced_tokens_stride_over_the_experts():
    # Two tokens of four experts each among sixteen: 0, 4, 8, 12 and 2, 6, 10, 14.
    one = benchmark_routing([2], [16], [4], [1], ["balanced"])
    first = benchmark_routing([2], [16], [4], [4], ["balanced"])
    assert (one.local[0], one.load[0]) == (8, 8)
    assert (first.local[0], first.load[0]) == (2, 2)


def test_a_single_token_lands_on_neighbours_in_old_tables_and_on_all_ranks_in_new_ones():
    shape = ([1], [128], [8], [8], ["power_law_1.2"])
    assert benchmark_routing(*shape, in_turn=False).local[0] > 7
    assert benchmark_routing(*shape, in_turn=True).local[0] < 2


def test_the_measured_rank_has_the_most():
    r = benchmark_routing([4096], [128], [8], [8], ["power_law_1.2"])
    assert r.load[0] > 1.2 * 4096 * 8 / 8


def test_tiles_hold_all_rows_and_pad_each_expert_once():
    r = benchmark_routing([1000], [64], [6], [1], ["power_law_1.01"])
    for rows in TILE_ROWS:
        assert r.load[0] / rows <= r.tiles(rows)[0] <= r.load[0] / rows + 64


def test_releases_and_gates():
    assert not deals_in_turn("0.14.0")
    assert all(deals_in_turn(v) for v in ("0.22.0", "1.3.0rc20", "unknown"))
    assert is_gated(2688, 1856, 6, 128, in_turn=False)
    assert not is_gated(2688, 1856, 6, 128, in_turn=True)
    assert is_gated(4096, 1536, 8, 128, in_turn=True)
