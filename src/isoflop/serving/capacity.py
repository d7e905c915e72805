"""How much traffic a configuration carries under its promises, and what more traffic needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from ..errors import InvalidInput
from .candidates import Candidate
from .server import Server
from .simulate import simulate
from .slo import Promise
from .traffic import Trace

TOLERANCE = 0.02
"""Relative width of the answer; percentiles of a finite trace are no sharper."""
REQUESTS = 3000
"""Requests of the trace that each trial simulates."""
WIDEST = 1e6
"""Requests per second above which nobody asks."""


@frozen(kw_only=True)
class Capacity:
    """The highest load one replica keeps its promises under.

    Attributes
    ----------
    requests_per_s : float
        Zero if even a single request at a time breaks one.
    blocked_by : str
        The promise that breaks just above it.
    trials : int
        Loads simulated.
    """

    requests_per_s: float
    blocked_by: str
    trials: int

    def replicas(self, load_per_s: float) -> int:
        """Replicas, with requests dealt evenly, that carry a load.

        Raises
        ------
        InvalidInput
            If no number of replicas does.
        """
        if not self.requests_per_s > 0:
            raise InvalidInput(
                "One request at a time already breaks a promise, so no number of replicas helps: "
                "use a faster configuration, or a longer limit."
            )
        return max(1, math.ceil(load_per_s / self.requests_per_s - 1e-9))


def capacity(server: Server, trace: Trace, promises: Sequence[Promise], dealt: int = 1) -> Capacity:
    """Search the highest rate of the trace, keeping its shape, that breaks no promise.

    `dealt` replicas take its requests in turn, and this is one of them: it gets every so manieth,
    which arrive more evenly than the whole.

    The rate is bracketed by doubling and halved in between: promises break once and for all as the
    load grows, up to the noise of the percentiles.
    """
    part = trace.take(np.arange(0, min(len(trace), REQUESTS * dealt), dealt))
    if not math.isfinite(part.requests_per_s):
        raise InvalidInput("All requests of the trace arrive at once: give a rate (--rate).")
    trials = 0
    blocked = ""
    longest = float(part.output_tokens.max())

    def keeps(rate: float) -> bool:
        nonlocal trials, blocked
        trials += 1
        summary = simulate(server, part.at_rate(rate), drop_long=True, brief=True).summary
        broken = [str(p) for p in promises if not p.kept(summary)]
        blocked = broken[0] if broken else blocked
        # A queue that grows all along may not have broken a promise yet: the run then ends late.
        tail = longest * float(summary["tpot_s"]["p99"] or 0.0)
        steady = summary["duration_s"] < 1.1 * len(part) / rate + 2.0 * tail
        if not broken and not steady:
            blocked = "throughput: the queue grows without end"
        return not broken and steady

    low, high = 0.0, part.requests_per_s
    while keeps(high) and high < WIDEST:
        low, high = high, 2.0 * high
    while low == 0.0 and high > 1e-4:
        middle = high / 4.0
        if keeps(middle):
            low = middle
        else:
            high = middle
    while low > 0 and high / low > 1.0 + TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return Capacity(requests_per_s=low, blocked_by=blocked, trials=trials)


def load_table(
    candidate: Candidate, found: Capacity, loads: Sequence[float],
    price: Callable[[int], float | None],
) -> list[dict[str, Any]]:  # fmt: skip
    """Replicas, devices and price of several loads."""
    rows = []
    for load in loads:
        replicas = found.replicas(load)
        devices = math.ceil(replicas / candidate.share) * candidate.step.plan.devices
        rows.append({
            "requests_per_s": float(load), "replicas": replicas, "devices": devices,
            "usd_per_hour": price(devices),
        })  # fmt: skip
    return rows


def usual_loads(load_per_s: float) -> list[float]:
    """The load itself and multiples of it."""
    return [float(x) for x in load_per_s * np.array([0.5, 1.0, 2.0, 5.0, 10.0])]
