"""How much traffic a configuration carries under its promises, and what more traffic needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from ..errors import InvalidInput
from .curve import Candidate
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
MOST_CLIENTS = 2048
"""Clients of one replica above which only the queue grows: twice the largest batch tried."""


@frozen(kw_only=True)
class Capacity:
    """The highest load one replica keeps its promises under.

    Attributes
    ----------
    requests_per_s : float
        Zero if even a single request at a time breaks one.
    clients : int or None
        Most clients of a closed loop, which make that rate; None where arrivals are given.
    blocked_by : str
        The promise that breaks just above it; empty where none broke at any load tried.
    trials : int
        Loads simulated.
    """

    requests_per_s: float
    blocked_by: str
    trials: int
    clients: int | None = None

    @property
    def most(self) -> float:
        """The load itself: requests per second, or clients."""
        return self.requests_per_s if self.clients is None else self.clients

    def replicas(self, load: float) -> int:
        """Replicas, with requests dealt evenly, that carry a load: a rate, or clients.

        Raises
        ------
        InvalidInput
            If no number of replicas does.
        """
        if not self.most > 0:
            raise InvalidInput(
                "One request at a time already breaks a promise, so no number of replicas helps: "
                "use a faster configuration, or a longer limit."
            )
        return max(1, math.ceil(load / self.most - 1e-9))


def capacity(server: Server, trace: Trace, promises: Sequence[Promise], dealt: int = 1) -> Capacity:
    """Search the highest rate of the trace, keeping its shape, that breaks no promise.

    `dealt` replicas take its requests in turn, and this is one of them: it gets every so manieth,
    which arrive more evenly than the whole. Of a closed loop it is the most clients.

    The load is bracketed by doubling and halved in between: promises break once and for all as it
    grows, up to the noise of the percentiles.
    """
    if trace.clients:
        return _most_clients(server, trace, promises, math.ceil(trace.clients / dealt))
    if trace.follows is None:
        part = trace.take(np.arange(0, min(len(trace), REQUESTS * dealt), dealt))
    else:
        each = len(trace) / len(trace.roots)
        part = trace.chains(trace.roots[: math.ceil(REQUESTS * dealt / each) : dealt])
    if not math.isfinite(part.requests_per_s):
        raise InvalidInput("All requests of the trace arrive at once: give a rate (--rate).")
    trials = 0
    blocked = ""
    longest, pauses = _longest_chain(part)

    def keeps(rate: float) -> bool:
        nonlocal trials, blocked
        trials += 1
        summary = simulate(server, part.at_rate(rate), drop_long=True, brief=True).summary
        broken = [str(p) for p in promises if not p.kept(summary)]
        blocked = broken[0] if broken else blocked
        # A queue that grows all along may not have broken a promise yet: the run then ends late.
        tail = longest * float(summary["tpot_s"]["p99"] or 0.0)
        steady = summary["duration_s"] < 1.1 * len(part) / rate + 2.0 * tail + pauses
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


def _longest_chain(trace: Trace) -> tuple[float, float]:
    """Most output tokens of requests that follow each other, and most seconds of pauses."""
    if trace.follows is None:
        return float(trace.output_tokens.max()), 0.0
    tokens = np.array(trace.output_tokens, float)
    pauses = np.zeros(len(trace))
    for i in np.nonzero(trace.follows >= 0)[0]:  # a request comes after the one it follows
        before = trace.follows[i]
        tokens[i] += tokens[before]
        pauses[i] = pauses[before] + (0.0 if trace.think_s is None else trace.think_s[i])
    return float(tokens.max()), float(pauses.max())


def _most_clients(
    server: Server, trace: Trace, promises: Sequence[Promise], start: int
) -> Capacity:
    """The most clients of a closed loop, each with as many requests as the trace's have.

    A closed loop never grows a queue without end, so a promise alone can be the limit; without a
    binding one the search ends at `MOST_CLIENTS`.
    """
    trials = 0
    blocked = ""
    rates: dict[int, float] = {}

    def keeps(clients: int) -> bool:
        nonlocal trials, blocked
        trials += 1
        summary = simulate(server, trace.with_clients(clients), brief=True).summary
        rates[clients] = summary["requests_per_s"]
        broken = [str(p) for p in promises if not p.kept(summary)]
        blocked = broken[0] if broken else blocked
        return not broken

    low, high = 0, start
    while keeps(high) and high < MOST_CLIENTS:
        low, high = high, 2 * high
    while high - low > max(1, int(TOLERANCE * low)):
        middle = (low + high) // 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return Capacity(requests_per_s=rates.get(low, 0.0), blocked_by=blocked, trials=trials,
                    clients=low)  # fmt: skip


def load_table(
    candidate: Candidate, found: Capacity, loads: Sequence[float],
    price: Callable[[int], float | None],
) -> list[dict[str, Any]]:  # fmt: skip
    """Replicas, devices and price of several loads."""
    whole = found.clients is not None
    key = "clients" if whole else "requests_per_s"
    rows = []
    for load in loads:
        replicas = found.replicas(load)
        devices = math.ceil(replicas / candidate.share) * candidate.step.plan.devices
        rows.append({
            key: int(load) if whole else float(load), "replicas": replicas, "devices": devices,
            "usd_per_hour": price(devices),
        })  # fmt: skip
    return rows


def usual_loads(load: float, whole: bool = False) -> list[float]:
    """The load itself and multiples of it; whole numbers of clients."""
    loads = [float(x) for x in load * np.array([0.5, 1.0, 2.0, 5.0, 10.0])]
    return [float(math.ceil(x)) for x in loads] if whole else loads
