"""Failures: how often to checkpoint, and what is left of the time, in closed form and simulated.

References
----------
Young 1974, A first order approximation to the optimum checkpoint interval, CACM 17(9).
Daly 2006, A higher order estimate of the optimum checkpoint interval for restart dumps, Future
Generation Computer Systems 22(3), equations 20 and 37.
"""

from __future__ import annotations

import math

import numpy as np
from attrs import frozen

from ..errors import InvalidInput


@frozen(kw_only=True)
class Failures:
    """What fails and what that costs.

    Attributes
    ----------
    mtbf_s : float
        Mean time between failures of the whole job.
    restart_s : float
        From a failure to running again: detection, replacement, loading.
    checkpoint_s : float
        A checkpoint stops the job so long.
    """

    mtbf_s: float
    restart_s: float
    checkpoint_s: float

    def __attrs_post_init__(self) -> None:
        for name, what in (("mtbf_s", "time between failures"), ("checkpoint_s", "checkpoint")):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidInput(f"The {what} takes a positive number of seconds, not {value}.")
        if not (math.isfinite(self.restart_s) and self.restart_s >= 0):
            raise InvalidInput(f"A restart takes zero or more seconds, not {self.restart_s}.")


def young_s(f: Failures) -> float:
    """Young's checkpoint interval, sqrt(2 d M)."""
    return math.sqrt(2.0 * f.checkpoint_s * f.mtbf_s)


def daly_s(f: Failures) -> float:
    """Daly's higher-order interval (equation 37); the mean time itself for long checkpoints."""
    d, m = f.checkpoint_s, f.mtbf_s
    if d >= 2.0 * m:
        return m
    x = math.sqrt(d / (2.0 * m))
    return math.sqrt(2.0 * d * m) * (1.0 + x / 3.0 + x * x / 9.0) - d


def expected_s(f: Failures, work_s: float, interval_s: float) -> float:
    """Mean time to do `work_s` of work with a checkpoint after every `interval_s` of it.

    M e^(R/M) (e^((t + d)/M) - 1) work / t for exponential failures, which may also strike during
    checkpoints and restarts (Daly 2006, equation 20).
    """
    m = f.mtbf_s
    each = math.expm1((interval_s + f.checkpoint_s) / m)
    return m * math.exp(f.restart_s / m) * each * work_s / interval_s


def goodput(f: Failures, interval_s: float | None = None) -> float:
    """Share of time that is work kept, at the given interval or at Daly's."""
    interval = daly_s(f) if interval_s is None else interval_s
    return 1.0 / expected_s(f, 1.0, interval)


def simulate_s(
    f: Failures, work_s: float, interval_s: float, *, runs: int = 200, seed: int = 0
) -> np.ndarray:
    """Time to do `work_s` in `runs` simulated lives, shape (runs,).

    Failures are exponential; one during work or a checkpoint loses the work since the last
    checkpoint, one during a restart begins the restart again.
    """
    if interval_s <= 0 or work_s <= 0:
        raise InvalidInput("Work and checkpoint interval take positive numbers of seconds.")
    rng = np.random.default_rng(seed)
    totals = np.zeros(runs)
    for i in range(runs):
        now, done = 0.0, 0.0
        failure = rng.exponential(f.mtbf_s)
        while done < work_s - 1e-9:
            piece = min(interval_s, work_s - done)
            end = now + piece + f.checkpoint_s * piece / interval_s
            if failure >= end:
                now, done = end, done + piece
                continue
            now = failure
            while True:  # restarts until one gets through
                failure = now + rng.exponential(f.mtbf_s)
                now = min(failure, now + f.restart_s)
                if failure > now:
                    break
        totals[i] = now
    return totals
