"""Routed experts: what a rank receives and what it takes."""

import numpy as np
import pytest
from attrs import evolve

from isoflop.cost.kernels import DeviceShape
from isoflop.cost.kernels.calibration import load_kernels
from isoflop.cost.kernels.moe import moe_time_s
from isoflop.cost.kernels.routing import engine_routing, even_routing
from isoflop.hardware import load_accelerator

H100 = load_accelerator("h100-sxm")
SHAPE, RATE = DeviceShape.of(H100), H100.rates.dense_flop_per_s["bf16"]
BF16 = load_kernels("hopper")[0].moe["bf16"]
MODEL = {"hidden": 4096, "inner": 1536, "experts": 128, "experts_local": 128, "per_token": 8}


def seconds(p=BF16, tokens=64.0, **changed):
    return moe_time_s(p, SHAPE, np.asarray(tokens, float), rate_flop_per_s=RATE,
                      weight_bytes_per_value=2.0, **(MODEL | changed))  # fmt: skip


def test_experts_without_a_gate_skip_a_third_of_the_weights():
    ratio = seconds(gated=False, tokens=256.0) / seconds(tokens=256.0)
    assert 0.6 < ratio < 0.75


def test_rows_that_do_not_divide_by_16_values_load_slowly():
    assert seconds(inner=88) > 1.3 * seconds(inner=96)
    assert seconds(evolve(BF16, unaligned=1.0), inner=88) < seconds(inner=96)


def test_the_ladder_picks_the_tile_of_the_token_count():
    fixed = evolve(BF16, ladder=((64, 16, 64), (1_000_000_000, 128, 128)))
    small, large = evolve(BF16, ladder=((1, 16, 64),)), evolve(BF16, ladder=((1, 128, 128),))
    assert seconds(fixed, 64.0) == seconds(small, 64.0)
    assert seconds(fixed, 65.0) == seconds(large, 65.0)


def test_a_ladder_per_expert_counts_tokens_of_each():
    per = evolve(BF16, ladder=((1, 16, 32), (1_000_000_000, 64, 64)), per_expert=True)
    small = evolve(BF16, ladder=((1, 16, 32),))
    assert seconds(per, 128.0) == seconds(small, 128.0)
    assert seconds(per, 129.0) != seconds(small, 129.0)


def test_a_tuned_shape_is_never_slower_than_by_the_rule():
    tuned = evolve(BF16, tuned=((128, 1536),))
    tokens = np.geomspace(1, 16384, 30)
    assert np.all(seconds(tuned, tokens) <= seconds(tokens=tokens) * (1 + 1e-12))
    assert np.any(seconds(tuned, tokens) < seconds(tokens=tokens))
    np.testing.assert_array_equal(
        seconds(tuned, tokens, inner=768), seconds(tokens=tokens, inner=768)
    )


def test_no_tokens_take_no_time():
    assert seconds(tokens=[0.0, 1.0])[0] == 0.0


def test_even_routing_touches_every_expert_before_any_twice():
    r = even_routing(np.array([8.0, 16.0, 64.0]), 128, 128, 8)
    np.testing.assert_array_equal(r.local, [64, 128, 128])
    np.testing.assert_array_equal(r.tiles(16), [64, 128, 128])
    np.testing.assert_array_equal(r.load, [64, 128, 512])


def test_an_engine_rank_receives_its_share_of_the_pairs():
    whole = engine_routing(np.array([512.0]), 128, 128, 8)
    part = engine_routing(np.array([512.0]), 128, 16, 8)
    assert whole.load == pytest.approx(512 * 8)
    assert part.load == pytest.approx(whole.load / 8)
    assert part.local == pytest.approx(whole.local / 8)
