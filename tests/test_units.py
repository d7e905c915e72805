"""Quantities: parsing, dimensions and the strings shown to people."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop import units
from isoflop.errors import UnitError


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("80 GB", "bytes", 80e9), ("80 GiB", "bytes", 80 * 2**30), ("80 Gbit", "bytes", 10e9),
        ("1.5 TiB", "bytes", 1.5 * 2**40), ("3.35 TB/s", "bytes_per_s", 3.35e12),
        ("400 Gbit/s", "bytes_per_s", 50e9), ("989.4 TFLOP/s", "flop_per_s", 989.4e12),
        ("1978.9 TOP/s", "flop_per_s", 1978.9e12), ("6e23 FLOP", "flop", 6e23),
        ("1.83 GHz", "hz", 1.83e9), ("2 us", "s", 2e-6), ("2 µs", "s", 2e-6),
        ("3 min", "s", 180.0), ("2 days", "s", 172800.0), ("700 W", "watts", 700.0),
        ("1 kWh", "joules", 3.6e6), ("2.49 USD/h", "usd_per_hour", 2.49),
        ("$2.49/h", "usd_per_hour", 2.49), ("$1,000", "usd", 1000.0),
        ("2T", "tokens", 2e12), ("300B", "tokens", 300e9), ("15", "bytes", 15.0),
        (1.5e12, "flop", 1.5e12), (7, "s", 7.0), ("1_000 B", "bytes", 1000.0),
    ],
)  # fmt: skip
def test_parse(text, dimension, value):
    assert units.parse(text, dimension) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "dimension", "match"),
    [
        ("80 GB", "bytes_per_s", "a quantity in bytes"),
        ("3 TB/s", "bytes", "bytes_per_s"),
        ("700 W", "joules", "watts"),
        ("5 s", "hz", "a quantity in s"),
        ("989 TFLOPS", "flop_per_s", "ambiguous"),
        ("400 Gbps", "bytes_per_s", "ambiguous"),
        ("80 furlong", "bytes", "not known"),
        ("many GB", "bytes", "does not start with a number"),
        ("", "bytes", "does not start with a number"),
        ("nan", "bytes", "does not start with a number"),
        ("1e999 GB", "bytes", "not a finite number"),
        (math.nan, "bytes", "not a finite number"),
        (math.inf, "s", "not a finite number"),
        (True, "bytes", "quantity"),
        ("2 GiHz", "hz", "not known"),
    ],
)
def test_parse_errors(text, dimension, match):
    with pytest.raises(UnitError, match=match):
        units.parse(text, dimension, "memory.capacity")


def test_errors_name_the_quantity():
    with pytest.raises(UnitError, match=r"memory\.capacity"):
        units.parse("3 TB/s", "bytes", "memory.capacity")


def test_gb_is_not_gib_is_not_gbit():
    gb, gib, gbit = (units.parse(f"1 {u}", "bytes") for u in ("GB", "GiB", "Gbit"))
    assert gbit < gb < gib
    assert gib / gb == pytest.approx(1.073741824)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf])
def test_positive_refuses(value):
    with pytest.raises(UnitError, match="above zero"):
        units.positive(value, "x")


def test_positive_returns():
    assert units.positive(2.5, "x") == 2.5


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (units.show_s(0.0124), "12.4 ms"), (units.show_s(3.2 * 3600), "3.2 h"),
        (units.show_s(41 * 86400), "41 days"), (units.show_s(0), "0 s"),
        (units.show_bytes(14.9 * 2**30), "14.9 GiB"), (units.show_rate(3.35e12), "3.35 TB/s"),
        (units.show_flop(16.1e9), "16.1 GFLOP"), (units.show_flop_rate(989e12), "989 TFLOP/s"),
        (units.show_count(8.03e9), "8.03B"), (units.show_count(12), "12"),
    ],
)  # fmt: skip
def test_show(shown, text):
    assert shown == text


@given(st.floats(1e-3, 1e6), st.sampled_from(["", "k", "M", "G", "T", "P"]))
def test_prefixes_scale(number, prefix):
    plain = units.parse(f"{number!r} B/s", "bytes_per_s")
    factor = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}[prefix]
    assert units.parse(f"{number!r} {prefix}B/s", "bytes_per_s") == pytest.approx(plain * factor)


@given(st.floats(1.0, 1e17))
def test_shown_rates_parse_back(value):
    assert units.parse(units.show_rate(value, 6), "bytes_per_s") == pytest.approx(value, rel=1e-4)
