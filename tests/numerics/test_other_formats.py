"""Posit, fixed, code book, power and block formats against tables and slow plain oracles."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.errors import InvalidInput
from isoflop.numerics import (
    _floatround,
    decode,
    encode,
    encode_blocks,
    load_format,
    pack,
    round_to,
    unpack,
)  # fmt: skip
from isoflop.numerics.conformance import microxcaling as microxcaling_peer
from isoflop.numerics.formats import BlockFormat, CodebookFormat, PositFormat, names
from isoflop.numerics.formats.named import NF4_VALUES


def test_posit_tables(vectors):
    for name, table in vectors("decode_posit.json").items():
        expected = np.array([np.nan if v == "nar" else float.fromhex(v) for v in table])
        got = load_format(name.replace("_", "-")).values
        assert np.array_equal(got, expected, equal_nan=True), name
    for es in (1, 2):
        expected = vectors(f"decode_posit16_es{es}.npz")["v"]
        got = load_format(f"posit16-es{es}").values
        assert np.array_equal(got, expected, equal_nan=True)


@pytest.mark.parametrize("name", ["posit8", "softposit8", "posit16", "softposit16", "posit6-es3"])
def test_posit_codes_survive_a_round_trip(name):
    fmt = load_format(name)
    assert np.array_equal(encode(fmt.values, fmt), np.arange(fmt.code_count))


@pytest.mark.parametrize(("n", "es"), [(6, 0), (6, 1), (8, 2), (7, 3)])
def test_posit_rounding_is_on_the_bit_string(n, es):
    # The tie between codes c and c + 1 is the (n+1)-bit posit 2c + 1 (Posit standard 2022, 4.1).
    fmt = PositFormat(name="p", n=n, es=es)
    finer = PositFormat(name="q", n=n + 1, es=es)
    codes = np.arange(1, (1 << (n - 1)) - 1)
    ties = finer.decode(2 * codes + 1)
    even = codes + codes % 2
    assert np.array_equal(encode(ties, fmt), even)
    assert np.array_equal(encode(np.nextafter(ties, 0), fmt), codes)
    assert np.array_equal(encode(np.nextafter(ties, np.inf), fmt), codes + 1)
    assert np.array_equal(decode(encode(-ties, fmt), fmt, dtype=float), -fmt.decode(even))


def test_posit_never_rounds_to_zero_or_nar():
    x = np.array([1e-300, -1e-300, 1e300, -1e300, np.inf, np.nan, 0.0])
    fmt = load_format("posit16")
    assert round_to(x, fmt)[:4].tolist() == [2.0**-56, -(2.0**-56), 2.0**56, -(2.0**56)]
    assert np.isnan(round_to(x, fmt)[4:6]).all()
    assert round_to(x, fmt)[6] == 0


def test_posit32_decodes_its_own_codes():
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 1 << 32, 5000, dtype=np.uint64)
    codes = codes[codes != 1 << 31]
    values = decode(codes, "posit32", dtype=np.float64)
    assert np.array_equal(encode(values, "posit32"), codes)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40), st.integers(1, 8))
def test_packing_round_trip(codes, bits):
    codes = (np.array(codes) & ((1 << bits) - 1)).astype(np.uint8)
    packed = pack(codes, bits)
    assert packed.size == -(-codes.size * bits // 8)
    assert np.array_equal(unpack(packed, bits, codes.size), codes)
    as_integer = sum(int(c) << (i * bits) for i, c in enumerate(codes))
    assert int.from_bytes(packed.tobytes(), "little") == as_integer


def test_packing_refuses_wide_codes():
    with pytest.raises(InvalidInput, match="does not fit 3 bits"):
        pack(np.array([8], np.uint8), 3)
    with pytest.raises(InvalidInput, match="1 to 8"):
        pack(np.array([1], np.uint8), 9)
    with pytest.raises(InvalidInput, match="asked for"):
        unpack(np.zeros(2, np.uint8), 3, 6)


@settings(deadline=None)
@given(st.floats(-300, 300), st.sampled_from(["int8", "fixed8-f3", "uint4", "ufixed6-f2"]))
def test_fixed_point_is_the_nearest_value(x, name):
    fmt = load_format(name)
    got = float(round_to(np.float64(x), fmt))
    clipped = min(max(x, fmt.values.min()), fmt.values.max())
    assert abs(got - clipped) == np.abs(fmt.values - clipped).min()


@settings(deadline=None)
@given(st.floats(-2, 2), st.sampled_from(["dynamic8"]))
def test_code_book_is_the_nearest_value(x, name):
    fmt = load_format(name)
    got = float(round_to(np.float64(x), fmt))
    assert abs(got - min(max(x, -1), 1)) <= np.abs(fmt.values - min(max(x, -1), 1)).min() + 1e-15


def test_dynamic_tree_has_256_values():
    book = load_format("dynamic8").values
    assert book.size == 256
    assert book[-1] == 1.0
    assert 0.0 in book
    # The largest decade is bisected into 64 equal steps of (1 - 0.1) / 64.
    assert np.allclose(np.diff(book[-65:-1]), 0.9 / 64)


def test_directed_rounding_of_a_code_book():
    fmt = CodebookFormat(name="b", book=(-2, -1, 0, 3))
    x = np.array([-1.5, -0.2, 1.0, 3.0])
    expected = {
        "toward_zero": [-1, 0, 0, 3], "away_from_zero": [-2, -1, 3, 3], "up": [-1, 0, 3, 3],
        "down": [-2, -1, 0, 3], "nearest_even": [-2, 0, 0, 3], "nearest_zero": [-1, 0, 0, 3],
    }  # fmt: skip
    for rounding, values in expected.items():
        assert round_to(x, fmt, rounding=rounding).tolist() == values, rounding


def test_power_format_inverts_itself():
    fmt = load_format("power4-a0.5")
    values = fmt.values[np.abs(fmt.values) <= 1]  # the most negative code is never written
    assert values.size == 15
    assert np.allclose(round_to(values, fmt), values)
    # With a = 1 it is the symmetric integer grid.
    x = np.linspace(-1, 1, 101)
    assert np.allclose(round_to(x, "power4-a1"), np.rint(x * 7) / 7)


# --- blocks -----------------------------------------------------------------------------------


def mx_oracle(x, element, rule):
    """Section 6.3 of OCP MX v1.0 for one block, in float64 and log2, and the three other rules."""
    amax = np.abs(x).max()
    emax = math.floor(math.log2(element.max))
    if rule == "floor":
        power = math.floor(math.log2(amax)) - emax
    elif rule == "ceil":
        power = math.ceil(math.log2(amax)) - emax
    else:
        power = math.ceil(math.log2(amax / element.max))
    y = x / 2.0**power
    nearest = np.abs(np.clip(y, -element.max, element.max)[:, None] - element.values).argmin(-1)
    return element.values[nearest] * 2.0**power


@pytest.mark.parametrize("rule", ["floor", "ceil", "rceil"])
@pytest.mark.parametrize("name", ["mxfp4", "mxfp6-e2m3", "mxfp6-e3m2", "mxint8"])
def test_mx_equals_a_literal_reading(name, rule):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((64, 32)) * 2.0 ** rng.uniform(-30, 30, (64, 1))
    fmt = load_format(f"{name}-{rule}")
    expected = np.stack([mx_oracle(row, fmt.element, rule) for row in x])
    assert np.array_equal(round_to(x, fmt), expected)


@pytest.mark.parametrize(
    "name",
    ["mxfp4", "mxfp4-ceil", "mxfp4-rceil", "mxfp4-even", "mxfp8-e4m3", "mxfp8-e5m2-even",
     "mxfp6-e2m3-rceil", "nvfp4", "nvfp4-one-level", "nvfp4-torchao"],
)  # fmt: skip
def test_compiled_and_plain_blocks_agree(monkeypatch, name):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((200, 128)) * 2.0 ** rng.uniform(-140, 120, (200, 1))
    x = x.astype(np.float32)
    x[3] = 0
    x[4, :32] = 0
    results = []
    for body in ("compiled", "plain"):
        monkeypatch.setattr(_floatround, "FORCED", body)
        results.append(round_to(x, name))
    assert np.array_equal(*results)
    assert not results[0][3].any()


@pytest.mark.parametrize("name", ["nvfp4", "nvfp4-one-level", "nvfp4-torchao", "mxfp4-rceil"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_compiled_blocks_round_quotients_at_the_boundaries_as_the_plain_body(name, seed):
    # Values whose quotient by the block's scale is a midpoint of the element, or its neighbour
    # in float32: where anything but the exact division and rounding would show.
    rng = np.random.default_rng(seed)
    fmt = load_format(name)
    table = np.unique(np.abs(fmt.element.values))
    middles = rng.choice((table[1:] + table[:-1]) / 2, (64, fmt.block))
    middles[:, 0] = fmt.element.max
    scales = (1 + rng.integers(0, 8, (64, 1)) / 8) * 2.0 ** rng.integers(-6, 8, (64, 1))
    x = (middles * scales * rng.choice([-1, 1], middles.shape)).astype(np.float32)
    x = np.nextafter(x, x * rng.integers(0, 3, x.shape).astype(np.float32))
    results = []
    for body in ("compiled", "plain"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_floatround, "FORCED", body)
            results.append(round_to(x, name))
    assert np.array_equal(*results)


@pytest.mark.parametrize("name", ["nvfp4", "nvfp4-one-level", "mxfp4", "bfp12-n32"])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_blocks_go_into_out_and_do_not_depend_on_threads(body, name, threads):
    x = np.random.default_rng(4).standard_normal((400, 512)).astype(np.float32)
    expected = round_to(x, name)
    out = np.full_like(x, -1)
    assert round_to(x, name, out=out, threads=threads) is out
    assert np.array_equal(out, expected)
    columns = np.full((512, 400), -1, np.float32).T  # not contiguous: a copy at the end
    assert round_to(x, name, out=columns) is columns
    assert np.array_equal(columns, expected)
    assert round_to(x, name, out=x, threads=threads) is x
    assert np.array_equal(x, expected)
    with pytest.raises(InvalidInput, match="must match x"):
        round_to(x, name, out=out[:-1])


@pytest.mark.parametrize("name", ["nvfp4", "nvfp4-one-level", "mxfp4"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_blocks_say_where_the_first_bad_value_is(body, name, bad):
    x = np.ones((400, 512), np.float32)
    x[321, 77] = bad
    for threads in (1, 2):
        with pytest.raises(InvalidInput, match=r"\(321, 77\)"):
            round_to(x, name, threads=threads)


@pytest.mark.parametrize(
    ("name", "published"),
    [("nvfp4", 0.0951), ("mxfp4", 0.1150), ("mxfp4-rceil", 0.1154), ("mxfp8-e4m3", 0.0293)],
)
def test_error_on_gaussian_data(name, published):
    x = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    error = round_to(x, name) - x
    assert np.sqrt((error**2).mean() / (x**2).mean()) == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("name", "bits"),
    [("mxfp4", 4.25), ("mxfp8-e4m3", 8.25), ("nvfp4", 4.5), ("nf4", 4.5), ("int4-g128", 4.125),
     ("int4-g128-asym", 4 + 20 / 128), ("bfp12-n32", 4.25), ("mxint8", 8.25)],
)  # fmt: skip
def test_bits_per_value_to_the_byte(name, bits):
    fmt = load_format(name)
    assert fmt.bits_per_value == bits
    x = np.random.default_rng(0).standard_normal((16, 256)).astype(np.float32)
    blocks = encode_blocks(x, fmt)
    assert blocks.storage_bytes == x.size * bits / 8 + 4 * fmt.two_level
    assert np.array_equal(blocks.decode(), round_to(x, fmt))


def test_asymmetric_groups_keep_zero_exact():
    x = np.random.default_rng(0).uniform(0.5, 3, (8, 128)).astype(np.float32)
    x[:, ::7] = 0
    got = round_to(x, "int4-g128-asym")
    assert not got[:, ::7].any()
    assert np.abs(got - x).max() <= 0.51 * 3 / 15


def test_block_inputs_that_cannot_work():
    x = np.ones((2, 33), np.float32)
    with pytest.raises(InvalidInput, match="33 values do not divide into blocks of 32"):
        round_to(x, "mxfp4")
    x = np.ones((2, 32), np.float32)
    x[1, 5] = np.nan
    with pytest.raises(InvalidInput, match=r"\(1, 5\) is nan"):
        round_to(x, "mxfp4")
    fp4, fp32 = load_format("e2m1"), load_format("fp32")
    with pytest.raises(InvalidInput, match="zero points need integer"):
        BlockFormat(name="b", element=fp4, scale=fp32, block=32, zero_point=True)
    with pytest.raises(InvalidInput, match="encode_blocks"):
        encode(np.ones(32, np.float32), "mxfp4")


def test_all_zero_blocks_stay_zero():
    x = np.zeros((2, 256), np.float32)
    for name in ("mxfp4", "nvfp4", "nf4", "int4-g128", "int4-g128-asym", "bfp12-n32"):
        assert not round_to(x, name).any(), name


def test_four_scale_rules_equal_torchao():
    pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    from isoflop.numerics.conformance import torchao

    mx, nvfp4 = torchao.check()
    assert mx["compared"] == 5 * 4 * 64 * 256
    assert mx["different"] == nvfp4["different"] == 0


def microxcaling(x, bits, exponent_bits, emax, largest):
    """The published steps of microxcaling's MX conversion, blocks of 32, float32 throughout."""
    x = x.reshape(-1, 32)
    amax = np.abs(x).max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        shared = np.floor(np.log2(amax + np.float32(2**-126) * (amax == 0))) - emax
        shared = np.maximum(shared, -127)
        y = (x / np.exp2(shared)).astype(np.float32)
        own = np.floor(np.log2(np.abs(y) + (y == 0)))
    own = np.maximum(own, 2 - 2 ** (exponent_bits - 1)) if exponent_bits else np.zeros_like(y)
    step = np.exp2(own - (bits - 2))
    y = np.sign(y) * np.floor(np.abs(y / step) + np.float32(0.5)) * step
    return np.clip(y, -largest, largest) * np.exp2(shared)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("mxfp8-e4m3", (5, 4, 8, 448)), ("mxfp8-e5m2", (4, 5, 15, 57344)),
     ("mxfp6-e3m2", (4, 3, 4, 28)), ("mxfp6-e2m3", (5, 2, 2, 7.5)), ("mxfp4", (3, 2, 2, 6)),
     ("mxint8", (8, 0, 0, 127 / 64))],
)  # fmt: skip
def test_microxcaling_preset_follows_its_published_steps(name, parameters):
    x = microxcaling_peer.values(4, 512)
    expected = microxcaling(x, *parameters).reshape(x.shape)
    assert np.array_equal(round_to(x, name, like="microxcaling"), expected)
    assert not np.array_equal(round_to(x, name), expected)


def test_microxcaling_as_a_peer():
    pytest.importorskip("mx.mx_ops", reason="microxcaling is on no package index")
    (found,) = microxcaling_peer.check()
    assert found["compared"] == 6 * 4096 * 32
    assert found["different"] == 0


def test_microxcaling_preset_keeps_what_is_not_finite():
    x = np.array([np.inf, -np.inf, np.nan, 1e9, -1e9, 0.25], np.float32)
    got = round_to(x, "fp8-e4m3", like="microxcaling")
    assert np.array_equal(got, [np.inf, -np.inf, np.nan, 448, -448, 0.25], equal_nan=True)


def test_every_named_format_is_complete():
    for name in names():
        fmt = load_format(name)
        assert fmt.name == name
        assert fmt.bits_per_value >= 1
        assert fmt.max > 0
        assert 0 < fmt.min_positive <= fmt.max
        assert fmt.code_count >= 2
        if fmt.bits <= 16:
            assert len(fmt.values) == fmt.code_count


def test_nf4_is_the_published_book():
    assert len(NF4_VALUES) == 16
    assert load_format("nf4").element.values[7] == 0.0
    assert list(NF4_VALUES) == sorted(NF4_VALUES)
