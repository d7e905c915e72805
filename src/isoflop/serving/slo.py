"""Latency promises: `ttft<500ms@p99,tpot<40ms@p95`."""

from __future__ import annotations

import re
from typing import Any

from attrs import frozen

from ..errors import InvalidInput, UnitError
from ..units import parse

METRICS = ("ttft", "tpot", "itl", "e2e")
POINTS = ("p50", "p90", "p95", "p99", "mean")


@frozen(kw_only=True)
class Promise:
    """One bound: `metric` (ttft, tpot, itl, e2e) at `point` (p50 .. p99, mean) below `limit_s`."""

    metric: str
    point: str
    limit_s: float

    def value_s(self, summary: dict[str, Any]) -> float | None:
        """What a simulation's summary says of it."""
        return summary[f"{self.metric}_s"][self.point]

    def kept(self, summary: dict[str, Any]) -> bool:
        """Whether the simulation keeps it; a value that does not exist cannot break it."""
        value = self.value_s(summary)
        return value is None or value <= self.limit_s

    def __str__(self) -> str:
        return f"{self.metric} < {self.limit_s * 1e3:g} ms at {self.point}"


def parse_slo(text: str) -> tuple[Promise, ...]:
    """Promises separated by commas; the point is p99 where none is given.

    Raises
    ------
    InvalidInput
        If a part is not `metric<time@point`.
    """
    promises = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(r"(\w+)\s*<=?\s*([^@]+?)\s*(?:@\s*(\w+))?", part.lower())
        if not match or match.group(1) not in METRICS or (match.group(3) or "p99") not in POINTS:
            raise InvalidInput(
                f"'{part}' is not a latency promise. Write metric<time@point, such as "
                f"ttft<500ms@p99, with a metric of {', '.join(METRICS)} and a point of "
                f"{', '.join(POINTS)}."
            )
        try:
            limit = parse(match.group(2), "s")
        except UnitError as error:
            raise InvalidInput(f"The limit of '{part}' is not a time: {error}") from None
        if not limit > 0:
            raise InvalidInput(f"The limit of '{part}' must be above zero.")
        promises.append(Promise(metric=match.group(1), point=match.group(3) or "p99",
                                limit_s=limit))  # fmt: skip
    if not promises:
        raise InvalidInput("A latency promise is needed, such as ttft<500ms@p99,tpot<40ms@p95.")
    return tuple(promises)
