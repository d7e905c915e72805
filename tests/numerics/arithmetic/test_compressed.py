"""Products with code words against decoding first, and what they refuse."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.errors import InvalidInput
from isoflop.numerics import decode, encode, load_format
from isoflop.numerics.arithmetic import compressed

FORMATS = ("bf16", "posit16", "softposit8", "fp8-e4m3", "fp16", "nf4")


@pytest.fixture(params=["compiled", "plain"])
def kernels(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(compressed, "_kernels", lambda: None)
    elif compressed._kernels() is None:
        pytest.skip("numba is not installed")
    return request.param


def scalar(name):
    fmt = load_format(name)
    return getattr(fmt, "element", fmt)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [1, compressed.FEW_ROWS, compressed.FEW_ROWS + 1, 40])
def test_integers_are_summed_exactly(kernels, name, rows, monkeypatch):
    monkeypatch.setattr(compressed, "TILE_BYTES", 3 * 4 * 2500)  # tiles that do not divide n
    rng = np.random.default_rng(0)
    fmt = scalar(name)
    x = rng.integers(-4, 5, (rows, 2500)).astype(np.float32)
    codes = encode(rng.choice([-1.0, 0.0, 1.0], (37, 2500)).astype(np.float32), fmt)
    assert np.array_equal(compressed.matmul(x, codes, fmt), x @ decode(codes, fmt).T)


@given(
    name=st.sampled_from(FORMATS), rows=st.integers(1, 12), k=st.integers(1, 70),
    n=st.integers(1, 20), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_shape_equals_decoding_first(name, rows, k, n, seed):
    rng = np.random.default_rng(seed)
    fmt = scalar(name)
    x = rng.standard_normal((rows, k)).astype(np.float32)
    codes = encode(rng.uniform(-1, 1, (n, k)).astype(np.float32), fmt)
    wide = decode(codes, fmt, dtype=np.float64)
    bound = k * 2.0**-24 * (np.abs(x).astype(np.float64) @ np.abs(wide).T)
    got = compressed.matmul(x, codes, fmt)
    assert np.all(np.abs(got - x.astype(np.float64) @ wide.T) <= 1.01 * bound + 1e-30)


def test_nan_codes_reach_their_outputs_only(kernels):
    x = np.ones((2, 5), np.float32)
    codes = encode(np.ones((3, 5), np.float32), "posit16")
    codes[1, 2] = 0x8000  # NaR
    got = compressed.matmul(x, codes, "posit16")
    assert np.isnan(got[:, 1]).all()
    assert np.array_equal(got[:, [0, 2]], np.full((2, 2), 5))


@pytest.mark.parametrize("rows", [1, 32])
def test_memory_stays_a_tile(rows):
    codes = encode(np.ones((2048, 2048), np.float32), "softposit8")
    x = np.ones((rows, 2048), np.float32)
    compressed.matmul(x, codes, "softposit8")
    tracemalloc.start()
    compressed.matmul(x, codes, "softposit8")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rows * 2048 * 4 + compressed.TILE_BYTES + 200_000  # decoded weights: 16.8 MB


@pytest.mark.parametrize(
    ("x", "codes", "name", "why"),
    [
        ((2, 5), np.zeros((3, 4), np.uint8), "fp8-e4m3", "needed"),
        ((2, 4), np.zeros((3, 4), np.uint16), "fp8-e4m3", "codes are uint16"),
        ((2, 4), np.full((3, 4), 200, np.uint8), "fp6-e3m2", "codes 0 to 63"),
        ((2, 32), np.zeros((3, 32), np.uint8), "mxfp4", "scales beside"),
        ((2, 4), np.zeros((3, 4), np.uint32), "posit32", "up to 16"),
    ],
)
def test_what_does_not_fit_is_refused(x, codes, name, why):
    with pytest.raises(InvalidInput, match=why):
        compressed.matmul(np.ones(x, np.float32), codes, name)
