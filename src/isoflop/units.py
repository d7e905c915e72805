"""Quantities: datasheet strings in, SI floats inside, human strings out.

Inside isoflop every quantity is a plain float in an SI base unit with the unit in its name
(`_s`, `_bytes`, `_bytes_per_s`, `_flop`, `_flop_per_s`, `_hz`, `_watts`, `_joules`, `_usd`).
People and TOML files write `"3.35 TB/s"`; `parse` turns that into `3.35e12` once, checks the
dimension, and tells GB (1e9) from GiB (2**30) and from Gbit (1e9 / 8).
"""

from __future__ import annotations

import math
import re

from .errors import UnitError

_SI = {"": 1.0, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6}
_SI |= {"G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Z": 1e21}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}

# dimension -> {base unit spelling: factor}; prefixes in front are looked up separately.
_BASES: dict[str, dict[str, float]] = {
    "bytes": {"B": 1.0, "byte": 1.0, "bytes": 1.0, "bit": 0.125},
    "bytes_per_s": {"B/s": 1.0, "bit/s": 0.125},
    "flop": {"FLOP": 1.0, "OP": 1.0},
    "flop_per_s": {"FLOP/s": 1.0, "OP/s": 1.0},
    "hz": {"Hz": 1.0},
    "s": {"s": 1.0, "min": 60.0, "h": 3600.0, "hours": 3600.0, "d": 86400.0, "days": 86400.0},
    "watts": {"W": 1.0},
    "joules": {"J": 1.0, "Wh": 3600.0},
    "usd": {"USD": 1.0},
    "usd_per_hour": {"USD/h": 1.0},
    "tokens": {"tokens": 1.0, "": 1.0},
}
_COUNT_SUFFIX = {"k": 1e3, "K": 1e3, "Ki": 1024.0, "M": 1e6, "Mi": 1024.0**2, "B": 1e9, "G": 1e9,
                 "T": 1e12}  # fmt: skip
_NUMBER = re.compile(r"^\s*\$?\s*([+-]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*$")
_COMMON_SLIPS = {
    "TFLOPS": "TFLOP/s",
    "GFLOPS": "GFLOP/s",
    "PFLOPS": "PFLOP/s",
    "TOPS": "TOP/s",
    "Gbps": "Gbit/s",
    "GBps": "GB/s",
    "GBPS": "GB/s",
    "TBps": "TB/s",
    "gb": "GB (1e9) or GiB (2**30)",
}

SUFFIXES = tuple(sorted((f"_{d}" for d in _BASES), key=len, reverse=True))
"""Attribute-name suffixes that name a unit, longest first."""


def parse(text: str | float | int, dimension: str, what: str = "value") -> float:
    """Parse a quantity such as `"3.35 TB/s"` into SI base units.

    Parameters
    ----------
    text : str or number
        A bare number is taken to be in SI base units already.
    dimension : str
        One of the unit suffixes: bytes, bytes_per_s, flop, flop_per_s, hz, s, watts, joules,
        usd, usd_per_hour, tokens.
    what : str
        What the quantity is, for the error message.

    Raises
    ------
    UnitError
        If it does not parse, has another dimension, or is not finite.
    """
    if isinstance(text, bool):
        raise UnitError(f"{what} is {text!r}; a quantity such as {_example(dimension)} is needed.")
    if isinstance(text, (int, float)):
        return _finite(float(text), text, what)
    match = _NUMBER.match(text)
    if not match:
        raise UnitError(
            f"{what} is '{text}', which does not start with a number. "
            f"Write for example {_example(dimension)}."
        )
    number = float(match.group(1).replace(",", "").replace("_", ""))
    unit = match.group(2).replace(" ", "")
    if "$" in text and dimension in ("usd", "usd_per_hour"):
        unit = ("USD" + unit) if unit.startswith("/") or not unit else unit
    factor = 1.0 if unit == "" else _factor(unit, dimension)
    if factor is None:
        raise UnitError(_wrong_unit(text, unit, dimension, what))
    return _finite(number * factor, text, what)


def whole(text: str) -> int | None:
    """A whole number, with or without a suffix (8192, 8k, 8Ki, 1M); None if it is none."""
    try:
        number = parse(text, "tokens")
    except UnitError:
        return None
    return int(number) if number.is_integer() else None


def _factor(unit: str, dimension: str) -> float | None:
    if dimension == "tokens" and unit in _COUNT_SUFFIX:
        return _COUNT_SUFFIX[unit]
    for base, scale in sorted(_BASES[dimension].items(), key=lambda item: -len(item[0])):
        if base and unit.endswith(base):
            prefix = unit[: len(unit) - len(base)]
            if prefix in _SI:
                return scale * _SI[prefix]
            if prefix in _BINARY and dimension.startswith("bytes"):
                return scale * _BINARY[prefix]
    return None


def _wrong_unit(text: str, unit: str, dimension: str, what: str) -> str:
    if unit in _COMMON_SLIPS:
        return f"{what} is '{text}'; the unit '{unit}' is ambiguous. Write {_COMMON_SLIPS[unit]}."
    others = [d for d in _BASES if d != dimension and _factor(unit, d) is not None]
    if others:
        return (
            f"{what} is '{text}', a quantity in {others[0]}, but {dimension} is needed. "
            f"Write for example {_example(dimension)}."
        )
    return f"{what} is '{text}'; the unit '{unit}' is not known. Write {_example(dimension)}."


def _example(dimension: str) -> str:
    return {
        "bytes": '"80 GiB" or "80 GB"',
        "bytes_per_s": '"3.35 TB/s"',
        "flop": '"6e23 FLOP"',
        "flop_per_s": '"989 TFLOP/s"',
        "hz": '"1.83 GHz"',
        "s": '"4 us"',
        "watts": '"700 W"',
        "joules": '"3 kJ"',
        "usd": '"100 USD"',
        "usd_per_hour": '"2.49 USD/h"',
        "tokens": '"2T" or "300B"',
    }[dimension]


def _finite(value: float, text: object, what: str) -> float:
    if not math.isfinite(value):
        raise UnitError(f"{what} is '{text}', which is not a finite number.")
    return value


def positive(value: float, what: str) -> float:
    """Return `value` if it is finite and above zero, else raise `UnitError` naming `what`."""
    if not (math.isfinite(value) and value > 0):
        raise UnitError(f"{what} is {value}; it must be a finite number above zero.")
    return value


def show_number(value: float, digits: int = 3) -> str:
    """`value` to `digits` significant figures, never in powers of ten: 1,020, not 1.02e+03."""
    return f"{value:,.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"


def _scaled(value: float, base: str, steps: list[tuple[float, str]], digits: int) -> str:
    if value == 0:
        return f"0 {base}"
    for factor, prefix in steps:
        if abs(value) >= factor * 0.9995:
            return f"{show_number(value / factor, digits)} {prefix}{base}"
    factor, prefix = steps[-1]
    return f"{show_number(value / factor, digits)} {prefix}{base}"


_UP = [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")]
_DOWN = [(1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")]
_IEC = [(2.0**40, "Ti"), (2.0**30, "Gi"), (2.0**20, "Mi"), (2.0**10, "Ki"), (1.0, "")]


def show_s(value: float, digits: int = 3) -> str:
    """Seconds for people: `12.4 ms`, `3.2 h`, `41 days`."""
    if value >= 2 * 86400:
        return f"{show_number(value / 86400, digits)} days"
    if value >= 2 * 3600:
        return f"{show_number(value / 3600, digits)} h"
    if value >= 120:
        return f"{show_number(value / 60, digits)} min"
    return _scaled(value, "s", _DOWN, digits)


def show_bytes(value: float, digits: int = 3) -> str:
    """Bytes for people, binary prefixes: `14.9 GiB`."""
    return _scaled(value, "B", _IEC, digits)


def show_rate(value: float, digits: int = 3) -> str:
    """Bytes per second, decimal prefixes as on datasheets: `3.35 TB/s`."""
    return _scaled(value, "B/s", _UP, digits)


def show_flop(value: float, digits: int = 3) -> str:
    """A FLOP count: `16.1 GFLOP`."""
    return _scaled(value, "FLOP", _UP, digits)


def show_flop_rate(value: float, digits: int = 3) -> str:
    """FLOP per second: `989 TFLOP/s`."""
    return _scaled(value, "FLOP/s", _UP, digits)


def show_energy(joules: float, digits: int = 3) -> str:
    """Energy in watt-hours, as it is billed: `1.4 MWh`, `860 kWh`."""
    return _scaled(joules / 3600.0, "Wh", _UP, digits)


def show_count(value: float, digits: int = 3) -> str:
    """A count with k, M, B, T: `8.03B`."""
    for factor, suffix in [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")]:
        if abs(value) >= factor * 0.9995:
            return f"{show_number(value / factor, digits)}{suffix}"
    return f"{show_number(value, digits)}"
