"""Approximate arithmetic against exact and high-precision oracles."""

import itertools

import mpmath
import numpy as np
import pytest

from isoflop.errors import InvalidInput
from isoflop.numerics import encode, round_to
from isoflop.numerics.arithmetic import (
    bessel,
    fma,
    givens,
    lmul,
    lut_gemm,
    reproducible,
    strassen,
)


def test_lmul_equation_has_the_recorded_errors(vectors):
    for m, entry in vectors("lmul_stats.json").items():
        got = lmul.exhaustive_error(int(m), "equation")
        assert lmul.offset_exponent(int(m)) == entry["l"]
        assert got["mean"] == pytest.approx(entry["mean_rel"], abs=1e-12)
        assert got["mean_absolute"] == pytest.approx(entry["mean_abs_rel"], abs=1e-12)
        assert got["largest"] == pytest.approx(entry["max_abs_rel"], abs=1e-12)


@pytest.mark.parametrize("m", [1, 2, 3, 4, 7])
def test_lmul_on_bits_is_its_own_formula(m):
    mantissas = 1 + np.arange(1 << m) / (1 << m)
    x = np.repeat(mantissas, 1 << m).astype(np.float32) * 8
    y = np.tile(mantissas, 1 << m).astype(np.float32) / -4
    got = lmul.lmul(x, y, m).astype(float)
    exact = x.astype(float) * y
    stats = lmul.exhaustive_error(m)
    assert np.all(got <= 0)
    assert np.abs(got / exact - 1).max() == pytest.approx(stats["largest"], rel=1e-6)
    assert (got / exact - 1).mean() == pytest.approx(stats["mean"], rel=1e-5)
    if m >= 3:
        assert stats["mean_absolute"] < lmul.exhaustive_error(m, "equation")["mean_absolute"]


def test_lmul_edges():
    x = np.array([0, 1e-30, 1e30, np.inf, np.nan, -0.0, 1e-40], np.float32)
    y = np.array([5, 1e-30, 1e30, 2, 1, 3, 1e30], np.float32)
    got = lmul.lmul(x, y)
    assert got[:4].tolist() == [0, 0, np.inf, np.inf]
    assert np.isnan(got[4])
    assert np.signbit(got[5])
    assert got[6] == 0
    with pytest.raises(InvalidInput):
        lmul.offset_exponent(0)


def test_lmul_matmul_is_close():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((8, 64)), rng.standard_normal((64, 4))
    exact = a @ b
    error = np.abs(lmul.lmul_matmul(a, b, 7) - exact).mean() / np.abs(exact).mean()
    assert error < 0.06


def test_exact_normalisation_is_a_wide_sum_and_approximation_costs_bits():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 200, 64))
    exact = (round_to(x, "bf16") * round_to(y, "bf16")).sum(-1)

    def error(k, spread, width):
        return np.abs(fma.dot(x, y, k, spread, width) - exact).mean()

    assert error(0, 0, 40) < 1e-9
    assert error(1, 1, 40) < 1e-8
    exact_16, an_12, an_22 = error(0, 0, 14), error(1, 2, 14), error(2, 2, 14)
    assert exact_16 <= an_12 * 1.02
    assert exact_16 < an_22 < 20 * exact_16
    with pytest.raises(InvalidInput, match="an-1-1"):
        fma.dot(x, y, 1, 1, 8)


@pytest.mark.parametrize(
    ("v", "x"),
    [(0, 0.01), (0, 1), (0.5, 20), (15, 30.5), (20.2, 20), (12, 19), (0, 50), (2, 1500), (50, 10),
     (100, 300), (300, 1), (5, 5), (12.6, 1e-3), (10, 19.6), (0, 19.6), (1e4, 1e-3), (1e3, 1e6)],
)  # fmt: skip
def test_log_bessel_equals_40_digits(v, x):
    with mpmath.workdps(40):
        exact_i = mpmath.log(mpmath.besseli(v, x)) if max(v, x) < 1e5 else None
        exact_k = mpmath.log(mpmath.besselk(v, x)) if max(v, x) < 1e5 else None
    got_i, got_k = float(bessel.log_i(v, x)), float(bessel.log_k(v, x))
    assert np.isfinite([got_i, got_k]).all()
    if exact_i is not None:
        assert abs(got_i - exact_i) <= 2e-14 * max(abs(exact_i), 1)
        assert abs(got_k - exact_k) <= 2e-14 * max(abs(exact_k), 1)


def test_log_bessel_at_random_points_satisfies_the_wronskian():
    # I_v K_{v+1} + I_{v+1} K_v = 1 / x, across all regions and their borders.
    rng = np.random.default_rng(1)
    v, x = 10 ** rng.uniform(-2, 2.5, 500), 10 ** rng.uniform(-2, 3, 500)
    first = bessel.log_i(v, x) + bessel.log_k(v + 1, x) + np.log(x)
    second = bessel.log_i(v + 1, x) + bessel.log_k(v, x) + np.log(x)
    scale = np.abs(bessel.log_i(v, x)) + np.abs(bessel.log_k(v + 1, x)) + 1
    assert np.all(np.abs(np.log(np.exp(first) + np.exp(second))) < 1e-13 * scale)
    with pytest.raises(InvalidInput, match="x > 0"):
        bessel.log_i(1, 0)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_rotations_are_accurate_over_the_whole_range(kind):
    rng = np.random.default_rng(2)
    info = np.finfo(kind)
    exponents = rng.uniform(info.minexp + 2, info.maxexp - 2, (2, 4000))
    f, g = (rng.choice([-1, 1], (2, 4000)) * 2.0**exponents).astype(kind)
    f[:3], g[:3] = [0, 3, 0], [2, 0, 0]
    c, s, r = givens.rotation(f, g)
    u = info.eps / 2
    for i in range(0, 4000, 40):
        with mpmath.workdps(50):
            ef, eg = mpmath.mpf(float(f[i])), mpmath.mpf(float(g[i]))
            d = mpmath.sqrt(ef**2 + eg**2)
            if d == 0:
                assert (c[i], s[i], r[i]) == (1, 0, 0)
                continue
            assert abs(mpmath.mpf(float(r[i])) - mpmath.sign(ef or 1) * d) <= 5 * u * d
            exact_c = abs(ef) / d
            small = 2.0**info.minexp
            assert abs(mpmath.mpf(float(c[i])) - exact_c) <= 5 * u * exact_c + small
    with np.errstate(all="ignore"):
        assert np.all(np.abs(c.astype(float) ** 2 + s.astype(float) ** 2 - 1) < 8 * u)


def test_fourteen_products_and_two_more_survive_any_two_losses():
    base = (*strassen.STRASSEN, *strassen.WINOGRAD)
    sixteen = (*base, *strassen.extra_products(2))
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((6, 8)), rng.standard_normal((8, 4))
    for algorithm in (strassen.STRASSEN, strassen.WINOGRAD):
        assert np.allclose(strassen.multiply(a, b, algorithm), a @ b)
    assert strassen.tolerates(base, 1) == 1.0
    assert strassen.tolerates(base, 2) < 1.0
    assert strassen.tolerates(sixteen, 2) == 1.0
    for lost in itertools.combinations(range(16), 2):
        assert np.allclose(strassen.multiply(a, b, sixteen, lost), a @ b)
    with pytest.raises(InvalidInput, match="cannot be rebuilt"):
        strassen.multiply(a, b, strassen.STRASSEN, (0,))


def test_reproducible_products_do_not_depend_on_threads_or_batch():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((33, 300)), rng.standard_normal((300, 17))
    once = reproducible.matmul(a, b)
    for threads in (2, 3, 7):
        assert np.array_equal(reproducible.matmul(a, b, threads=threads), once)
    for rows in (1, 5, 32):
        assert np.array_equal(reproducible.matmul(a[:rows], b), once[:rows])
    assert np.allclose(once, a @ b, atol=1e-4)
    x = rng.standard_normal(10001).astype(np.float32)
    assert reproducible.total(x) == pytest.approx(x.astype(float).sum(), rel=1e-5, abs=1e-3)
    assert reproducible.total(np.array([], np.float32)) == 0


def test_layercast_computes_in_float32():
    rng = np.random.default_rng(5)
    a = rng.standard_normal((4, 64)).astype(np.float32)
    w = rng.standard_normal((64, 3)).astype(np.float32)
    stored = encode(w, "bf16")
    cast = reproducible.layercast(a, stored)
    expected = a.astype(float) @ round_to(w, "bf16").astype(float)
    assert np.abs(cast - expected).max() < 1e-5
    narrow = round_to(round_to(a, "bf16") @ round_to(w, "bf16"), "bf16")
    assert np.abs(narrow - expected).max() > 20 * np.abs(cast - expected).max()
    with pytest.raises(InvalidInput, match="uint16"):
        reproducible.layercast(a, w)


@pytest.mark.parametrize("method", [None, "lookup", "count", "plain"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_table_products_equal_the_sum_of_lookups(bits, method):
    if method in ("lookup", "count") and method not in lut_gemm._kernels():
        pytest.skip("this CPU or installation lacks the kernel")
    if method == "count" and bits != 2:
        pytest.skip("bits are counted for 2-bit codes")
    rng = np.random.default_rng(6)
    for rows, columns, k in ((1, 7, 1), (5, 3, 63), (6, 70, 64), (9, 130, 201), (4, 64, 1100)):
        a, w = rng.integers(0, 1 << bits, (rows, k)), rng.integers(0, 1 << bits, (columns, k))
        packed = lut_gemm.pack(w, bits)
        for most in (3, 50, 4000):
            table = rng.integers(-most, most, (1 << bits, 1 << bits))
            expected = table[a[:, None, :], w[None, :, :]].sum(-1)
            assert np.array_equal(lut_gemm.matmul(a, packed, table, method), expected)
        u, v = rng.integers(-9, 9, 1 << bits), np.arange(1 << bits) - (1 << bits >> 1)
        assert np.array_equal(lut_gemm.codebook_matmul(a, packed, u, v), u[a] @ v[w].T)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_int8_activations_meet_low_bit_weights(bits):
    # the largest sums a byte, 16 and 32 bits must hold: every product at the end of its range
    v = np.arange(1 << bits) - (1 << bits >> 1)
    a, w = np.zeros((3, 5000), np.uint8), np.zeros((65, 5000), np.uint8)
    a[1], w[::2] = 255, (1 << bits) - 1
    u = np.arange(256) - 128
    got = lut_gemm.codebook_matmul(a, lut_gemm.pack(w, bits), u, v)
    assert np.array_equal(got, u[a.astype(int)] @ v[w.astype(int)].T)


def test_table_products_refuse_wrong_codes():
    with pytest.raises(InvalidInput, match="0 to 3"):
        lut_gemm.pack(np.array([[4]]))
    with pytest.raises(InvalidInput, match="1 to 4 bits"):
        lut_gemm.pack(np.array([[4]]), 5)
    left, one = np.array([[1]]), lut_gemm.pack(np.array([[1]]))
    with pytest.raises(InvalidInput, match=r"codes of the left side, 4"):
        lut_gemm.matmul(left, one, np.eye(3, dtype=int))
    with pytest.raises(InvalidInput, match="0 to 3"):
        lut_gemm.matmul(np.array([[4]]), one, np.eye(4, dtype=int))
    with pytest.raises(InvalidInput, match="cannot be multiplied"):
        lut_gemm.matmul(left, lut_gemm.pack(np.array([[1, 2]])), np.eye(4, dtype=int))
    with pytest.raises(InvalidInput, match="too many"):
        lut_gemm.matmul(left, lut_gemm.pack(left, 1), np.zeros((256, 2), int))
    with pytest.raises(InvalidInput, match="2-bit codes on both sides"):
        lut_gemm.matmul(left, lut_gemm.pack(left, 3), np.zeros((4, 8), int), "count")
