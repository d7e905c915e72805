"""Float formats against ml_dtypes, gfloat's P3109 tables and exact rational arithmetic."""

import re
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.errors import InvalidInput, UnknownName
from isoflop.numerics import decode, encode, load_format, round_to
from isoflop.numerics.formats import FloatFormat
from isoflop.numerics.formats.named import p3109

ML_DTYPES = (
    "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz",
    "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float6_e2m3fn", "float6_e3m2fn",
    "float4_e2m1fn",
)  # fmt: skip
MODES = {
    "rne": "nearest_even", "rz": "toward_zero", "away": "away_from_zero", "rna": "nearest_away",
    "rnz": "nearest_zero", "odd": "to_odd",
}  # fmt: skip
BOUNDARY_NAMES = {"e2m1fn": "e2m1", "e2m3fn": "e2m3", "e3m2fn": "e3m2", "e4m3ieee": "fp8-e4m3-ieee"}


def same(a, b):
    """Equal values, NaN equal to NaN, signs of zeros told apart."""
    both_nan = np.isnan(a) & np.isnan(b)
    return np.all(both_nan | ((a == b) & (np.signbit(a) == np.signbit(b))))


@pytest.mark.parametrize("name", ML_DTYPES)
def test_decode_equals_ml_dtypes(vectors, name):
    expected = [float.fromhex(v) for v in vectors("decode_ml_dtypes.json")[name]]
    assert same(load_format(name).values, np.array(expected))


def test_decode_equals_p3109_tables(vectors):
    tables = {k: v for k, v in vectors("decode_gfloat_p3109_ocp.json").items() if "p3109" in k}
    assert len(tables) > 100
    for name, table in tables.items():
        k, p, s, e = re.fullmatch(r"p3109_k(\d)p(\d)(s|u)(e|f)", name).groups()
        fmt = p3109(int(k), int(p), signed=s == "s", extended=e == "e")
        assert same(fmt.values, np.array([float.fromhex(v) for v in table])), name


@pytest.mark.parametrize("source", ["f16", "bf16"])
@pytest.mark.parametrize("name", ML_DTYPES)
def test_all_half_inputs_equal_ml_dtypes(vectors, body, name, source):
    expected = vectors("encode_rne_ml_dtypes_exhaustive16.npz")[f"{source}_{name}"]
    patterns = np.arange(65536, dtype=np.uint16)
    x = patterns.view(np.float16 if source == "f16" else ml_dtypes.bfloat16)
    codes = encode(x, name, like="ml_dtypes")
    assert np.array_equal(codes, expected)


@pytest.mark.parametrize("mode", MODES)
def test_boundaries_of_every_mode(vectors, body, mode):
    data = vectors("boundary_all_modes.npz")
    names = {key.partition("__")[0] for key in data.files}
    assert len(names) >= 10
    for name in names:
        fmt = load_format(BOUNDARY_NAMES.get(name, name))
        x, expected = data[f"{name}__x"], data[f"{name}__{mode}"]
        natural = np.inf if fmt.infinity else (np.nan if fmt.nan != "none" else fmt.max)
        expected = np.where(expected > fmt.max, natural, expected)
        for sign in (1, -1):
            got = round_to(sign * x, fmt, rounding=MODES[mode], overflow="format")
            assert same(got, sign * expected), (name, sign)


FORMATS = ("e4m3", "e5m2", "e2m1", "e3m2", "bf16", "fp16", "p3109-8p1se", "fp8-e5m2fnuz", "e4m0fn")


def exact(x: float, fmt: FloatFormat, rounding: str) -> float:
    """Rounding by search over the format's values in rational arithmetic."""
    values = [fmt.value_of_index(i) for i in range(fmt.max_index + 1)]
    beyond = Fraction(values[-1]) * 2  # past the largest value the caller saturates
    table = [Fraction(v) for v in values]
    magnitude, negative = Fraction(abs(x)), np.signbit(x)
    if magnitude >= beyond:
        return np.copysign(values[-1], x)
    below = max(i for i, v in enumerate(table) if v <= magnitude)
    step = table[below + 1] if below + 1 < len(table) else 2 * table[below] - table[below - 1]
    if magnitude == table[below]:
        choice = below
    else:
        up = 2 * (magnitude - table[below]) - (step - table[below])
        odd = below % 2 == 1
        choice = below + {
            "nearest_even": up > 0 or (up == 0 and odd), "nearest_away": up >= 0,
            "nearest_zero": up > 0, "toward_zero": False, "away_from_zero": True,
            "up": not negative, "down": negative, "to_odd": not odd,
        }[rounding]  # fmt: skip
    result = values[min(choice, len(values) - 1)]
    return np.copysign(result, x) if result or fmt.negative_zero else 0.0


@settings(max_examples=300, deadline=None)
@given(
    x=st.one_of(
        st.floats(allow_nan=False, allow_infinity=False),
        st.floats(-600, 600),
        st.integers(-4096, 4096).map(lambda i: i / 256),
    ),
    name=st.sampled_from([f for f in FORMATS if f not in ("bf16", "fp16")]),
    rounding=st.sampled_from([*MODES.values(), "up", "down"]),
)
def test_rounding_equals_rational_arithmetic(x, name, rounding):
    fmt = load_format(name)
    got = float(round_to(np.float64(x), fmt, rounding=rounding, overflow="saturate"))
    expected = exact(x, fmt, rounding)
    assert got == expected
    assert np.signbit(got) == np.signbit(expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FORMATS)
def test_compiled_and_plain_bodies_agree(monkeypatch, name, dtype):
    from isoflop.numerics import _floatround

    rng = np.random.default_rng(1)
    x = (rng.standard_normal(1 << 15) * 2.0 ** rng.uniform(-40, 20, 1 << 15)).astype(dtype)
    x[:5] = [0, -0.0, np.inf, -np.inf, np.nan]
    for rounding in [*MODES.values(), "up", "down", "stochastic"]:
        results = []
        for body in ("compiled", "plain"):
            monkeypatch.setattr(_floatround, "FORCED", body)
            options = {"rounding": rounding, "nan": "opposite_zero", "seed": 5}
            codes = encode(x, name, **options)
            assert same(decode(codes, name, dtype=dtype), round_to(x, name, **options))
            results.append(codes)
        assert np.array_equal(*results)


@pytest.mark.parametrize("bits", [1, 3, 8, 20, 24, 31])
@pytest.mark.parametrize("name", [*FORMATS, "e5m7", "e8m3"])
def test_stochastic_bodies_agree_at_every_number_of_bits(monkeypatch, name, bits):
    from isoflop.numerics import _floatround

    rng = np.random.default_rng(bits)
    n = 1 << 13
    x = (rng.standard_normal(n) * 2.0 ** rng.uniform(-45, 20, n)).astype(np.float32)
    x[:7] = [0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45]
    fmt = load_format(name)
    x[7:99] = [fmt.value_of_index(i % fmt.max_index) for i in range(92)]
    results = []
    for body in ("compiled", "plain"):
        monkeypatch.setattr(_floatround, "FORCED", body)
        options = {"rounding": "stochastic", "nan": "propagate", "seed": 7, "random_bits": bits}
        results.append(round_to(x, fmt, **options))
    assert same(*results)


def test_float64_is_rounded_once():
    # 1 + 2^-4 is a tie between 1 and 1.125 in E4M3; a hair above must go up, but a detour
    # through float32 loses the hair and sends it to the even neighbour 1.
    x = np.array([1 + 2.0**-4 + 2.0**-40])
    assert round_to(x, "e4m3")[0] == 1.125
    assert round_to(x, "e4m3", like="ml_dtypes")[0] == 1.0
    assert x.astype(ml_dtypes.float8_e4m3fn).astype(float)[0] == 1.0


def test_e8m0_is_exact_without_a_preset():
    # ml_dtypes sends ties up and (2^-127, 2^-126) up; by default ties go to the even code.
    x = np.array([1.5, 3.0, 2.0**-127 * 1.2, 0.0, -1.0])
    assert encode(x, "e8m0").tolist() == [128, 128, 0, 255, 255]
    assert encode(x, "e8m0", like="ml_dtypes").tolist() == [128, 129, 1, 255, 255]


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
                                  "float8_e5m2fnuz", "float8_e8m0fnu"])  # fmt: skip
def test_torch_preset_equals_torch(body, name):
    torch = pytest.importorskip("torch", minversion="2.13")
    x = np.arange(0, 1 << 32, 16381, dtype=np.uint64).astype(np.uint32).view(np.float32)
    edge = np.array([448, 464, 465, np.inf, -np.inf, np.nan, 0.0, -0.0, -3.0], np.float32)
    x = np.concatenate([x, edge])
    expected = torch.from_numpy(x).to(getattr(torch, name)).view(torch.uint8).numpy()
    assert np.array_equal(encode(x, name, like="torch-2.13"), expected)


PYCHOP_MODES = {
    "nearest_even": 1, "up": 2, "down": 3, "toward_zero": 4, "nearest_zero": 7, "nearest_away": 8,
}  # fmt: skip


@pytest.mark.parametrize("rounding", PYCHOP_MODES)
@pytest.mark.parametrize(("x", "y"), [(4, 3), (5, 2), (8, 7)])
def test_pychop_preset_equals_pychop(x, y, rounding):
    pychop = pytest.importorskip("pychop")
    torch = pytest.importorskip("torch")
    pychop.backend("torch")
    fmt = load_format({4: "fp8-e4m3-ieee", 5: "fp8-e5m2", 8: "bf16"}[x])
    rng = np.random.default_rng(0)
    low, high = max(fmt.min_exponent - y - 3, -120), min(fmt.max_exponent + 3, 126)
    values = rng.standard_normal(4096) * 2.0 ** rng.uniform(low, high, 4096)
    values[::4] = np.round(values[::4], 2)
    values[1::4] = rng.integers(-64, 64, 1024) * fmt.min_positive * 2.0 ** rng.integers(-1, 5, 1024)
    values = values.astype(np.float32)
    chop = pychop.Chop(exp_bits=x, sig_bits=y, rmode=PYCHOP_MODES[rounding])
    expected = chop(torch.from_numpy(values.copy())).numpy()
    got = round_to(values, fmt, rounding=rounding, like="pychop")
    assert np.array_equal(got, expected)
    if x < 8:
        assert np.any((np.abs(values) > 1.01 * fmt.max) & (got == 0)), "the defect is reproduced"


def test_stochastic_frequencies(body):
    n = 1 << 17
    x = np.full(n, 1 + 0.125 * 0.3, dtype=np.float32)
    up = round_to(x, "e4m3", rounding="stochastic", seed=3) == 1.125
    assert abs(up.mean() - 0.3) < 5 * np.sqrt(0.21 / n)
    again = round_to(x, "e4m3", rounding="stochastic", seed=3, threads=2) == 1.125
    assert np.array_equal(up, again)
    other = round_to(x, "e4m3", rounding="stochastic", seed=4) == 1.125
    assert abs(np.corrcoef(up, other)[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(up[:-1], up[1:])[0, 1]) < 5 / np.sqrt(n)


def test_stochastic_with_the_callers_bits_is_exhaustive():
    # With 3 random bits and every word once, exactly floor(8 * fraction) of 8 round up.
    words = (np.arange(8, dtype=np.uint32) << 29).astype(np.uint32)
    for eighths in range(9):
        x = np.full(8, 1 + 0.125 * eighths / 8, dtype=np.float32)
        got = round_to(x, "e4m3", rounding="stochastic", random_bits=3, random=words)
        assert (got == 1.125).sum() == eighths


def test_every_input_kind_and_out():
    torch = pytest.importorskip("torch")
    x = np.linspace(-500, 500, 4099, dtype=np.float32).reshape(-1, 4099)
    expected = round_to(x, "e4m3", overflow="saturate")
    t = torch.from_numpy(x.copy())
    assert np.array_equal(round_to(t, "e4m3", overflow="saturate").numpy(), expected)
    assert round_to(t, "e4m3", overflow="saturate", out=t) is t
    assert np.array_equal(t.numpy(), expected)
    half = torch.from_numpy(x).to(torch.bfloat16)
    got = round_to(half, "e4m3", overflow="saturate")
    assert got.dtype == torch.bfloat16
    again = round_to(half.float().numpy(), "e4m3", overflow="saturate")
    assert np.array_equal(got.float().numpy(), again)
    out = np.empty_like(x)
    assert round_to(x, "e4m3", overflow="saturate", out=out) is out
    assert np.array_equal(out, expected)


def test_overflow_policies():
    x = np.array([464.0, 465.0, 1e9, np.inf, -1e9], dtype=np.float32)
    nan = np.nan
    assert same(round_to(x, "e4m3"), np.array([448, nan, nan, nan, nan]))
    assert same(round_to(x, "e4m3", overflow="saturate"), np.array([448, 448, 448, 448, -448.0]))
    kept = round_to(x, "fp8-e4m3-ieee", overflow="saturate_finite")
    assert same(kept, np.array([240, 240, 240, np.inf, -240]))
    down = round_to(x, "e5m2", rounding="down")[[2, 4]]
    assert same(down, np.array([57344.0, -np.inf]))
    with pytest.raises(InvalidInput, match=r"Element 1 .*overflows"):
        round_to(x, "e4m3", overflow="error")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"nan": "ieee", "infinity": False}, "imply an infinity"),
        ({"nan": "negative_zero"}, "excludes minus zero"),
        ({"signed": False}, "minus zero needs a sign bit"),
        ({"exponent_bits": 16}, "0 to 15 are supported"),
        ({"zero": False, "negative_zero": False}, "subnormals need a zero"),
    ],
)
def test_inconsistent_formats_say_why(options, why):
    with pytest.raises(InvalidInput, match=why):
        FloatFormat(**{"name": "x", "exponent_bits": 4, "mantissa_bits": 3, **options})


def test_wrong_requests_are_sentences():
    with pytest.raises(UnknownName, match="nearest names"):
        round_to(np.ones(2, np.float32), "fp8_e4m4x")
    with pytest.raises(UnknownName, match="rounding"):
        round_to(np.ones(2, np.float32), "e4m3", rounding="banker")
    with pytest.raises(InvalidInput, match="no infinity"):
        round_to(np.ones(2, np.float32), "e4m3", overflow="infinity")
    with pytest.raises(InvalidInput, match="cannot hold"):
        round_to(np.ones(2, np.float16), "bf16")
    with pytest.raises(InvalidInput, match=r"Element 1 .*is NaN"):
        encode(np.array([1, np.nan], np.float32), "e2m1")
    with pytest.raises(InvalidInput, match="is int32"):
        round_to(np.ones(2, np.int32), "e4m3")
    with pytest.raises(InvalidInput, match=r"out is"):
        round_to(np.ones(2, np.float32), "e4m3", out=np.ones(3, np.float32))


@pytest.mark.parametrize(
    ("name", "largest", "eps", "smallest", "bits"),
    [
        ("e4m3", 448, 2**-3, 2**-9, 8), ("e5m2", 57344, 2**-2, 2**-16, 8),
        ("e3m2", 28, 2**-2, 2**-4, 6), ("e2m3", 7.5, 2**-3, 2**-3, 6), ("e2m1", 6, 0.5, 0.5, 4),
        ("e8m0", 2.0**127, 1, 2.0**-127, 8), ("fp16", 65504, 2**-10, 2**-24, 16),
        ("bf16", float(ml_dtypes.finfo(ml_dtypes.bfloat16).max), 2**-7, 2.0**-133, 16),
        ("fp64", np.finfo(float).max, 2**-52, 5e-324, 64),
    ],
)  # fmt: skip
def test_derived_values(name, largest, eps, smallest, bits):
    fmt = load_format(name)
    assert (fmt.max, fmt.eps, fmt.min_positive, fmt.bits) == (largest, eps, smallest, bits)


@pytest.mark.slow
@pytest.mark.parametrize("name", ML_DTYPES)
def test_all_float32_inputs_equal_ml_dtypes(name):
    dtype = getattr(ml_dtypes, name)
    step = 1 << 24
    for first in range(0, 1 << 32, step):
        x = np.arange(first, first + step, dtype=np.uint64).astype(np.uint32).view(np.float32)
        with np.errstate(invalid="ignore"):
            differ = encode(x, name, like="ml_dtypes") != x.astype(dtype).view(np.uint8)
        assert not differ.any(), x[differ][:4]


@pytest.mark.parametrize("name", ["p3109-16p8se", "p3109-16p12uf", "p3109-12p4sf", "p3109-16p16se"])
def test_wide_p3109_codes_survive_a_round_trip(name):
    fmt = load_format(name)
    values = fmt.values
    real = np.isfinite(values)
    codes = np.arange(fmt.code_count)
    assert np.array_equal(encode(values[real], fmt), codes[real])
    assert np.isnan(values).sum() == fmt.nan_count
    order = np.argsort(values[real & (codes < fmt.code_count // 2)], kind="stable")
    assert np.array_equal(order, np.arange(order.size))


def test_formats_wider_than_float64_encode_but_do_not_pretend_to_fit():
    fmt = load_format("p3109-16p2se")  # exponents to 4096
    assert fmt.max_exponent > 1023
    x = np.array([1.0, 1.25, 1e300, 5e-324])
    codes = encode(x, fmt)
    assert decode(codes, fmt, dtype=float).tolist() == [1.0, 1.0, 1.5 * 2.0**996, 5e-324]
    with pytest.raises(InvalidInput, match="cannot hold"):
        round_to(x, fmt)


def test_shapes_and_kinds_that_are_easy_to_forget():
    assert round_to(np.empty((0, 3), np.float32), "e4m3").shape == (0, 3)
    assert encode(np.empty(0), "posit16").size == 0
    x = np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2]
    out = np.zeros((4, 6), np.float32)[:, ::2]
    assert round_to(x, "e2m1", out=out) is out
    assert np.array_equal(out, round_to(x.copy(), "e2m1"))
    assert round_to([1.1, 2.2], "bf16").dtype == np.float64
    assert round_to(np.float16(1.07), "e4m3").dtype == np.float16


def test_jax_arrays_stay_jax_arrays():
    jnp = pytest.importorskip("jax.numpy")
    x = jnp.linspace(-500, 500, 1001, dtype=jnp.float32)
    y = round_to(x, "e4m3", overflow="saturate")
    assert type(y) is type(x)
    assert np.array_equal(np.asarray(y), round_to(np.asarray(x), "e4m3", overflow="saturate"))
    with pytest.raises(InvalidInput, match="read-only"):
        round_to(x, "e4m3", out=x)
