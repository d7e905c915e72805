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


def log_axis(reach: Sequence[float], short: bool = False) -> Any:
    """Ticks at the powers of ten, and at 3 of each where there are fewer than four."""
    import math

    low, high = min(reach), max(reach)
    tens = [10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    inside = [v for v in tens if low <= v <= high]
    if len(inside) < 4:
        inside = sorted(v for t in tens for v in (t, 3 * t) if low <= v <= high)
    alt = altair()
    if short:
        return alt.Axis(values=inside, labelExpr=SHORT)
    return alt.Axis(values=inside, format=".0e", labelExpr="replace(datum.label, 'e+', 'e')")
