"""Exact rational arithmetic: every direction at values, ties and their neighbours."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from ..formats import FloatFormat, load
from ..rounding import round_to
from ._base import Record, record, same

DIRECTED = (
    "nearest_even", "nearest_away", "nearest_zero", "toward_zero", "away_from_zero", "up", "down",
    "to_odd",
)  # fmt: skip
EXACT_FORMATS = (
    "fp8-e4m3", "fp8-e5m2", "fp6-e3m2", "fp6-e2m3", "fp4-e2m1", "p3109-8p1se", "p3109-8p4sf",
    "fp8-e5m2fnuz", "e5m7", "bf16", "fp16",
)  # fmt: skip


def _probes(fmt: FloatFormat, step: int) -> tuple[np.ndarray, list[int], list[Fraction]]:
    """Values, midpoints and their float64 neighbours, with the index below each."""
    xs: list[float] = []
    below: list[int] = []
    for i in range(0, fmt.max_index, step):
        low, high = fmt.value_of_index(i), fmt.value_of_index(i + 1)
        middle = (low + high) / 2
        for x in (low, middle, np.nextafter(middle, 0), np.nextafter(middle, np.inf)):
            xs.append(float(x))
            below.append(i)
    return np.array(xs), below, [Fraction(x) for x in xs]


def check() -> list[Record]:
    """Values rounded in each direction, of both signs."""
    compared = different = 0
    for name in EXACT_FORMATS:
        fmt = load(name)
        assert isinstance(fmt, FloatFormat)  # exact arithmetic walks the values of one
        step = max(1, fmt.max_index // 500)
        xs, below, exact = _probes(fmt, step)
        ends = {
            i: (Fraction(fmt.value_of_index(i)), Fraction(fmt.value_of_index(i + 1)))
            for i in set(below)
        }
        for rounding in DIRECTED:
            for negative in (False, True):
                up = [
                    _goes_up(x, *ends[i], i, rounding, negative) for x, i in zip(exact, below)
                ]  # fmt: skip
                values = [fmt.value_of_index(i + u) for i, u in zip(below, up)]
                expected = np.array(values) * (-1 if negative else 1)
                if not fmt.negative_zero:
                    expected = expected + 0.0
                got = round_to(-xs if negative else xs, fmt, rounding=rounding)
                compared += xs.size
                different += int((~same(got, expected)).sum())
    what = f"{len(DIRECTED)} directions at values, ties and their neighbours"
    return [record(what, "rational arithmetic", compared, different)]


def _goes_up(x: Fraction, low: Fraction, high: Fraction, index: int, rounding: str, negative: bool):
    if x == low:
        return False
    if x == high:
        return True
    twice, odd = 2 * x - low - high, index % 2 == 1
    return {
        "nearest_even": twice > 0 or (twice == 0 and odd), "nearest_away": twice >= 0,
        "nearest_zero": twice > 0, "toward_zero": False, "away_from_zero": True,
        "up": not negative, "down": negative, "to_odd": not odd,
    }[rounding]  # fmt: skip
