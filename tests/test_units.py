"""Quantities: what parses, to what, and how a wrong one is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop import units
from isoflop.errors import UnitError


@pytest.mark.parametrize(
    ("text", "dimension", "expected"),
    [
        ("80 GB", "bytes", 80e9),
        ("80 GiB", "bytes", 80 * 2**30),
        ("81559 MiB", "bytes", 81559 * 2**20),
        ("8 Gbit", "bytes", 1e9),
        ("3.35 TB/s", "bytes_per_s", 3.35e12),
        ("400 Gbit/s", "bytes_per_s", 50e9),
        ("1979 TOP/s", "flop_per_s", 1.979e15),
        ("989.4 TFLOP/s", "flop_per_s", 9.894e14),
        ("6e23 FLOP", "flop", 6e23),
        ("1.83 GHz", "hz", 1.83e9),
        ("2 us", "s", 2e-6),
        ("2 µs", "s", 2e-6),
        ("5 min", "s", 300.0),
        ("700 W", "watts", 700.0),
        ("1 kWh", "joules", 3.6e6),
        ("$2.49/h", "usd_per_hour", 2.49),
        ("2.49 USD/h", "usd_per_hour", 2.49),
        ("15T", "tokens", 15e12),
        ("300B", "tokens", 300e9),
        ("1,024", "tokens", 1024.0),
        (4.5e-6, "s", 4.5e-6),
        (7, "bytes", 7.0),
    ],
)
def test_parse(text, dimension, expected):
    assert units.parse(text, dimension) == pytest.approx(expected, rel=1e-12)


def test_decimal_binary_and_bit_prefixes_are_told_apart():
    decimal, binary, bits = (units.parse(f"1 {u}", "bytes") for u in ("GB", "GiB", "Gbit"))
    assert decimal == 1e9
    assert binary == 2**30
    assert bits == 1.25e8


@pytest.mark.parametrize(
    ("text", "dimension", "says"),
    [
        ("3.35 TB", "bytes_per_s", "a quantity in bytes, but bytes_per_s is needed"),
        ("3.35 TB/s", "bytes", "a quantity in bytes_per_s, but bytes is needed"),
        ("700 W", "joules", "watts"),
        ("989 TFLOPS", "flop_per_s", "ambiguous"),
        ("400 Gbps", "bytes_per_s", "Gbit/s"),
        ("80 gb", "bytes", "GiB"),
        ("80 GiFLOP", "flop", "not known"),
        ("12 parsecs", "s", "not known"),
        ("nan GB", "bytes", "does not start with a number"),
        ("inf GB", "bytes", "does not start with a number"),
        ("", "bytes", "does not start with a number"),
        ("GB", "bytes", "does not start with a number"),
        ("1e999 GB", "bytes", "not a finite number"),
        (math.nan, "bytes", "not a finite number"),
        (math.inf, "s", "not a finite number"),
        (True, "bytes", "a quantity such as"),
    ],
)
def test_wrong_quantity_is_refused_with_its_name(text, dimension, says):
    with pytest.raises(UnitError, match=r".*") as caught:
        units.parse(text, dimension, "memory.capacity")
    assert "memory.capacity" in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_positive_refuses(value):
    with pytest.raises(UnitError, match="above zero"):
        units.positive(value, "bandwidth")


@given(st.floats(min_value=1e-3, max_value=1e6), st.sampled_from(["k", "M", "G", "T", "P"]))
def test_prefixes_scale_by_their_power_of_ten(number, prefix):
    power = {"k": 3, "M": 6, "G": 9, "T": 12, "P": 15}[prefix]
    assert units.parse(f"{number!r} {prefix}B", "bytes") == pytest.approx(number * 10.0**power)


@pytest.mark.parametrize(
    ("show", "dimension", "low", "high"),
    [
        (units.show_s, "s", 1e-9, 1e8),
        (units.show_bytes, "bytes", 1.0, 2.0**45),
        (units.show_rate, "bytes_per_s", 1.0, 1e18),
        (units.show_flop, "flop", 1.0, 1e20),
        (units.show_flop_rate, "flop_per_s", 1.0, 1e20),
        (units.show_count, "tokens", 1.0, 1e14),
    ],
)
def test_what_is_shown_parses_back(show, dimension, low, high):
    steps = 200
    for i in range(steps + 1):
        value = low * (high / low) ** (i / steps)
        assert units.parse(show(value, 6), dimension) == pytest.approx(value, rel=2e-5)


@pytest.mark.parametrize("value", [999.6, 1020 * 2.0**20, 1023.4 * 2.0**30, 2.0**52, 3e15])
def test_numbers_for_people_are_never_powers_of_ten(value):
    for show in (units.show_bytes, units.show_s, units.show_count, units.show_flop):
        text = show(value)
        assert "e" not in text.split()[0], text
    assert units.parse(units.show_bytes(value), "bytes") == pytest.approx(value, rel=6e-3)


def test_zero_is_shown_with_its_unit():
    assert units.show_bytes(0) == "0 B"
    assert units.show_rate(0) == "0 B/s"


def test_energy_is_shown_as_it_is_billed():
    assert units.show_energy(1.001e12) == "278 MWh"
    assert units.show_energy(102.4 * 3.6e6) == "102 kWh"


@given(st.integers(0, 10**12))
def test_whole_numbers_with_and_without_suffix(number):
    assert units.whole(str(number)) == number
    assert units.whole(f"{number}k") == number * 1000
    assert units.whole(f"{number}.5") is None
