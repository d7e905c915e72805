"""Logarithmic axes that read as people write them: 10M, 3B, 1e21."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .chart import altair

SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
SHORT = "replace(format(datum.value, '~s'), 'G', 'B')"


def short(value: float) -> str:
    """A count with its suffix: 7.2e10 is `72B`."""
    for limit, suffix in SUFFIXES:
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def power(value: float) -> str:
    """One digit and the power of ten: 6.2e18 is `6e18`."""
    return f"{value:.0e}".replace("e+", "e")


def log_scale(reach: Sequence[float]) -> Any:
    """A logarithmic scale over (smallest, largest), not rounded outwards."""
    return altair().Scale(type="log", domain=[min(reach), max(reach)], nice=False)


_SECONDS = (
    "datum.value < 0.999e-3 ? format(datum.value * 1e6, '.2~r') + ' µs' : "
    "datum.value < 0.999 ? format(datum.value * 1e3, '.2~r') + ' ms' : "
    "format(datum.value, '.2~r') + ' s'"
)


def log_axis(reach: Sequence[float], short: bool = False, seconds: bool = False) -> Any:
    """Ticks at the powers of ten; where there are fewer than four also at 3, then at 2 and 5.

    `short` writes counts with their suffix, `seconds` writes us, ms or s.
    """
    import math

    low, high = min(reach), max(reach)
    tens = [10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    inside = [v for v in tens if low <= v <= high]
    for least, more in ((4, (1, 3)), (3, (1, 2, 5)), (3, (1, 1.5, 2, 3, 5, 7))):
        if len(inside) < least:
            inside = sorted(v for t in tens for v in (m * t for m in more) if low <= v <= high)
    alt = altair()
    if seconds:
        return alt.Axis(values=inside, labelExpr=_SECONDS)
    if short:
        return alt.Axis(values=inside, labelExpr=SHORT)
    return alt.Axis(values=inside, format=".0e", labelExpr="replace(datum.label, 'e+', 'e')")
