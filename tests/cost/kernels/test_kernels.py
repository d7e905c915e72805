"""Closed forms and properties of the kernel models, and their errors on measured tables."""

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.cost.kernels import DeviceShape
from isoflop.cost.kernels.attention import decode_time_s, prefill_time_s, tiled_keys
from isoflop.cost.kernels.calibration import load_kernels
from isoflop.cost.kernels.flash import LIBRARIES, key_splits
from isoflop.cost.kernels.gemm import gemm_time_s
from isoflop.cost.kernels.moe import moe_time_s
from isoflop.cost.kernels.routing import experts_touched, popularity
from isoflop.evidence.operator_rows import predict_operator_table
from isoflop.hardware import load_accelerator
from tests.shared_data import data

H100 = load_accelerator("h100")
SHAPE = DeviceShape.of(H100)
CAL = load_kernels("hopper")[0]
RATE = H100.rates.dense_flop_per_s["bf16"]

sizes = st.integers(1, 8192)


@settings(deadline=None)
@given(m=sizes, n=sizes, k=sizes)
def test_a_gemm_is_never_faster_than_its_roofline(m, n, k):
    t = float(gemm_time_s(CAL.gemm["bf16"], SHAPE, m, n, k, rate_flop_per_s=RATE))
    moved = 2.0 * (m * k + n * k + m * n)
    assert t >= max(2.0 * m * n * k / RATE, moved / SHAPE.bandwidth_bytes_per_s)


@settings(deadline=None)
@given(m=sizes, n=sizes, k=st.integers(64, 4096))
def test_a_deeper_gemm_takes_longer(m, n, k):
    one, two = (
        float(gemm_time_s(CAL.gemm["bf16"], SHAPE, m, n, v, rate_flop_per_s=RATE))
        for v in (k, 4 * k)
    )
    assert two >= one


@settings(deadline=None)
@given(b=st.integers(1, 256), c=st.integers(1, 60000))
def test_decoding_reads_its_whole_cache(b, c):
    t = float(
        decode_time_s(CAL.decode, SHAPE, batch=b, context=c, heads=32, kv_heads=8, head_dim=128)
    )
    assert t >= b * c * 8 * 256 * 2.0 / SHAPE.bandwidth_bytes_per_s


def test_a_window_caps_decoding_time():
    times = decode_time_s(CAL.decode, SHAPE, batch=64, context=np.array([4096.0, 65536.0]),
                          heads=64, kv_heads=8, head_dim=64, window=128)  # fmt: skip
    assert times[1] == pytest.approx(times[0])


def test_tiles_cover_the_triangle():
    keys, longest, tiles = tiled_keys(np.array([1024.0]), 0.0)
    assert tiles[0] == 8
    assert longest[0] == 1024
    assert keys[0] == pytest.approx(128 * (8 * 9 / 2))
    assert 128 * keys[0] > 1024 * 1025 / 2


@given(q=st.integers(1, 3000), c=st.integers(0, 2000), w=st.sampled_from([0, 128, 1000]),
       s=st.sampled_from([16, 64, 128]), n=st.sampled_from([64, 128]))  # fmt: skip
def test_tiled_keys_follow_a_count_tile_by_tile(q, c, w, s, n):
    total = 0
    for first in range(0, q, s):
        end = c + min(first + s, q)
        begin = max(0, c + first - w + 1) if w else 0
        total += (-(-end // n) - begin // n) * n
    keys, _, tiles = tiled_keys(q, c, w, step=s, block=n, slack=1.0 if w else 0.0)
    # Off by the rounding of a tile's two ends and, once, by what the last tile lacks.
    ends = (2 * n + s if w else n) * float(tiles)
    assert keys == pytest.approx(total, abs=ends + s)


def test_splits_follow_the_libraries_rules():
    # 200 blocks nearly fill the 216 slots of 108 units: no split.
    fa2 = key_splits(LIBRARIES["fa2"], np.array([8.0, 200.0]), np.array([32.0, 32.0]), 108)
    assert fa2.tolist() == [_reference_splits(8, 216, 32), 1]
    # 132 units: 8 heads of 64 blocks are ceil(1.1 x 512 / 132) = 5 blocks each, 13 pieces.
    fa3 = key_splits(LIBRARIES["fa3"], np.array([8.0]), np.array([64.0]), 132)
    assert fa3.tolist() == [13]


def _reference_splits(blocks, slots, key_blocks):
    """The search as its library writes it, one candidate after another."""
    if blocks >= 0.8 * slots:
        return 1
    most, filled = min(key_blocks, slots, 128), {}
    for s in range(1, most + 1):
        if s == 1 or -(-key_blocks // s) != -(-key_blocks // (s - 1)):
            waves = blocks * s / slots
            filled[s] = waves / np.ceil(waves)
    return next(s for s, v in filled.items() if v >= 0.85 * max(filled.values()))


@given(b=st.integers(1, 500), n=st.integers(1, 600), u=st.sampled_from([58, 108, 142]))
def test_searched_splits_equal_the_sequential_search(b, n, u):
    got = key_splits(LIBRARIES["fa2"], np.array([float(b)]), np.array([float(n)]), u)
    assert got[0] == _reference_splits(b, 2 * u, n)


def test_units_that_all_load_at_once_share_the_cache():
    # Tiles of this class follow a rule and none splits.
    alone, shared = (evolve(CAL.gemm["fp8"], load=8.0, crowd=c) for c in (1e3, 2.0))

    def ratio(n):
        one, all_ = (gemm_time_s(p, SHAPE, 128, n, 8192, rate_flop_per_s=RATE)
                     for p in (alone, shared))  # fmt: skip
        return float(all_ / one)

    assert ratio(128) == pytest.approx(1.0, abs=0.02)
    assert ratio(65536) > 1.2


def test_loads_that_do_not_hide_add_to_a_step():
    hidden = CAL.gemm["bf16"]
    times = [float(gemm_time_s(evolve(hidden, overlap=o), SHAPE, 4096, 4096, 8192,
                               rate_flop_per_s=RATE)) for o in (1.0, 4.0, 100.0)]  # fmt: skip
    assert times[0] > times[1] > times[2]


def test_prefill_is_quadratic_in_long_prompts():
    t = prefill_time_s(CAL.prefill, SHAPE, batch=1, queries=np.array([32768.0, 65536.0]), prior=0.0,
                       heads=32, kv_heads=8, head_dim=128)  # fmt: skip
    assert 3.5 < t[1] / t[0] < 4.5


def test_prompts_whose_operands_fit_the_cache_skip_memory():
    l40s = DeviceShape.of(load_accelerator("l40s"))
    p = load_kernels("ada")[0].prefill

    def ratio(batch):
        with_, without = (
            prefill_time_s(q, l40s, batch=batch, queries=64.0, prior=0.0, heads=32, kv_heads=8,
                           head_dim=128) for q in (p, evolve(p, residency=0.0))
        )  # fmt: skip
        return float(with_ / without)

    assert ratio(32) < 0.9  # 42 MB of 96
    assert ratio(512) == pytest.approx(1.0, abs=0.01)


def test_popularity_sums_to_the_experts_each_token_visits():
    q = popularity(64, 6.0, 0.7)
    assert q.sum() == pytest.approx(6.0)
    assert (q <= 1.0 + 1e-12).all()
    assert np.all(np.diff(q) <= 1e-12)


def test_skewed_routing_touches_fewer_experts():
    assert experts_touched(16.0, 128, 8, 0.7) < experts_touched(16.0, 128, 8, 0.0)


def test_more_tokens_never_make_the_experts_cheaper():
    t = moe_time_s(CAL.moe["bf16"], SHAPE, np.geomspace(1, 8192, 40), hidden=4096, inner=1536,
                   experts=128, experts_local=128, per_token=8, rate_flop_per_s=RATE,
                   weight_bytes_per_value=2.0)  # fmt: skip
    assert np.all(np.diff(t) >= -1e-9)


TABLES = [
    ("h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet", "gemm", 0.16),
    ("a100_sxm/gemm/vllm/0.14.0/gemm_perf.parquet", "gemm", 0.08),
    ("a100_sxm/attention/vllm/0.14.0/generation_attention_perf.parquet", "decode", 0.10),
    ("a100_sxm/attention/vllm/0.14.0/context_attention_perf.parquet", "prefill", 0.10),
    ("a100_sxm/moe/vllm/0.14.0/moe_perf.parquet", "moe", 0.11),
]


@pytest.mark.parametrize(("path", "kind", "limit"), TABLES)
def test_median_error_on_measured_kernels(path, kind, limit):
    pytest.importorskip("pyarrow")
    items = predict_operator_table(data(f"operators/aiconfigurator/{path}"))
    error = [
        abs(p.predicted / p.case.measured - 1)
        for p in items if p.predicted is not None and p.case.role == "check"
    ]  # fmt: skip
    assert len(error) > 1000
    assert np.median(error) <= limit
