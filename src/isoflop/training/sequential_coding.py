"""Gradients computed over several rounds, so that a burst of stragglers holds nobody up.

Every round t starts job t; the whole gradient of job t is due at the end of round t + T. In each
round the master waits until the fastest worker's time times 1 + `patience`, and from then on only
for as many workers as the scheme needs. Times are in units of a worker's whole job: `pace` (rounds,
workers) is what a worker would take for all of a job alone, and its share of one is the load.

References
----------
Tandon et al. 2017, Gradient Coding: load (s + 1) / n, T = 0.
Krishnan et al. 2023, Sequential Gradient Coding For Straggler Mitigation, arXiv 2211.13802.
Selective repetition: s = ceil(B lambda / (W - 1 + B)), load (s + 1) / n, T = B. Multiplexed: load
(lambda + 1)(W - 1 + B) / (n (B + (W - 1)(lambda + 1))), T = W - 2 + B.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from attrs import frozen

from ..cost.features import Array
from ..errors import InvalidInput


@frozen
class Scheme(ABC):
    """How the work of a job is shared out among `workers`.

    Attributes
    ----------
    workers : int
        At least 1.
    """

    workers: int

    @property
    @abstractmethod
    def load(self) -> float:
        """Share of a job that one worker computes in a round."""

    @property
    def delay(self) -> int:
        """Rounds after its own in which a job may still be finished."""
        return 0

    def durations(self, pace: Array, patience: float = 0.0, overhead: float = 0.0) -> Array:
        """Length of every round, shape (rounds,), of jobs that start in the first rounds - T.

        Parameters
        ----------
        pace : array
            Seconds each worker would take for a whole job in each round; (rounds, workers).
        overhead : float
            What a round costs a worker besides (starting it, sending its answer), in jobs.

        Raises
        ------
        InvalidInput
            If the pace has no row for a round, or not one column per worker.
        """
        times = np.asarray(pace, float) * (self.load + overhead)
        if times.ndim != 2 or times.shape[1] != self.workers or len(times) <= self.delay:
            raise InvalidInput(
                f"The pace has shape {times.shape}; it needs {self.workers} columns and more than "
                f"{self.delay} rounds."
            )
        return self._run(times, patience)

    @abstractmethod
    def _run(self, times: Array, patience: float) -> Array: ...

    def per_job(self, pace: Array, patience: float = 0.0, overhead: float = 0.0) -> float:
        """Mean time per job, the last rounds that only finish jobs included."""
        spent = self.durations(pace, patience, overhead)
        return float(spent.sum() / (len(spent) - self.delay))


@frozen
class Coded(Scheme):
    """Gradient coding within a round: the fastest n - s workers suffice; s = 0 is uncoded."""

    stragglers: int

    def __attrs_post_init__(self) -> None:
        _check(self.workers, "stragglers of a round", self.stragglers, 0)

    @property
    def load(self) -> float:
        return (self.stragglers + 1) / self.workers

    def _run(self, times: Array, patience: float) -> Array:
        return np.sort(times, axis=1)[:, self.workers - 1 - self.stragglers]


@frozen
class SelectiveRepetition(Scheme):
    """Gradient coding for fewer stragglers; what a job lacks is repeated `burst` rounds later.

    Attributes
    ----------
    burst, window, spread : int
        B, W and lambda: at most `spread` distinct stragglers in `window` rounds, each in bursts of
        at most `burst`; `burst` divides W - 1.
    """

    burst: int
    window: int
    spread: int

    def __attrs_post_init__(self) -> None:
        _check(self.workers, "distinct stragglers of a window", self.spread, 0)
        if self.burst < 1 or self.window < 2 or (self.window - 1) % self.burst:
            raise InvalidInput(
                f"A burst of {self.burst} must divide the window less one, {self.window - 1}."
            )

    @property
    def stragglers(self) -> int:
        """Stragglers of a job that its code makes up for."""
        return math.ceil(self.burst * self.spread / (self.window - 1 + self.burst))

    @property
    def load(self) -> float:
        return (self.stragglers + 1) / self.workers

    @property
    def delay(self) -> int:
        return self.burst

    def _run(self, times: Array, patience: float) -> Array:
        enough = self.workers - self.stragglers
        rounds = len(times)
        answered = np.zeros((rounds, self.workers), bool)  # of job t, in round t or t + B
        spent = np.empty(rounds)
        for t, taken in enumerate(times):
            due = t - self.burst
            again = np.zeros(self.workers, bool)
            if due >= 0:
                lacking = enough - int(answered[due].sum())
                again[np.flatnonzero(~answered[due])[: max(lacking, 0)]] = True
            if t >= rounds - self.burst and not again.any():
                spent[t] = 0.0  # no new jobs begin in the last rounds
                continue
            # What is repeated is due now; what is new can be repeated in turn, so it is waited for
            # no longer than patience, or until its code needs no more.
            end = taken[again].max(initial=0.0)
            if t < rounds - self.burst:
                new = np.sort(taken[~again])
                done = new[enough - 1] if len(new) >= enough else new[-1]
                end = max(end, min(done, (1.0 + patience) * taken.min()))
            spent[t] = end
            back = taken <= spent[t]
            if due >= 0:
                answered[due] |= again & back
            answered[t] = back & ~again & (t < rounds - self.burst)
        return spent


@frozen
class Multiplexed(Scheme):
    """W - 1 plain parts of a job per worker, repeated where lost, and B coded groups.

    In a round a worker does one part of each of the last W - 1 + B jobs. The master waits until the
    stragglers of the last W rounds are at most `spread` distinct ones, in bursts of at most `burst`
    rounds each; then every job is whole in time.
    """

    burst: int
    window: int
    spread: int

    def __attrs_post_init__(self) -> None:
        _check(self.workers, "distinct stragglers of a window", self.spread, 0)
        if not 1 <= self.burst < self.window:
            raise InvalidInput(
                f"A burst of {self.burst} must be at least 1 and shorter than the window of "
                f"{self.window}."
            )

    @property
    def load(self) -> float:
        b, w, many = self.burst, self.window, self.spread
        return (many + 1) * (w - 1 + b) / (self.workers * (b + (w - 1) * (many + 1)))

    @property
    def delay(self) -> int:
        return self.window - 2 + self.burst

    def _run(self, times: Array, patience: float) -> Array:
        rounds = len(times)
        slow = np.zeros((rounds, self.workers), bool)
        spent = np.empty(rounds)
        for t, taken in enumerate(times):
            before = slow[max(0, t - self.window + 1) : t]
            lately = before.any(axis=0)
            # Whoever was slow that long ago may not be slow now.
            early = slow[max(0, t - self.window + 1) : max(0, t - self.burst + 1)].any(axis=0)
            end = max((1.0 + patience) * taken.min(), taken[early].max(initial=0.0))
            # Others may be slow while the distinct ones of the window are few enough.
            fresh = np.sort(taken[~lately & (taken > end)])
            over = len(fresh) + int(lately.sum()) - self.spread
            if over > 0 and len(fresh):
                end = max(end, fresh[min(over, len(fresh)) - 1])
            spent[t] = min(end, taken.max())
            slow[t] = taken > spent[t]
        return self._finished(slow, spent)

    def _finished(self, slow: Array, spent: Array) -> Array:
        """The rounds' lengths, once every job is known to be whole in time."""
        for job in range(len(slow) - self.delay):
            if not self.whole(slow[job : job + self.delay + 1]):
                raise AssertionError(f"job {job} is not whole under a pattern that conforms")
        return spent

    def whole(self, slow: Array) -> bool:
        """Whether a job is whole after its rounds, `slow` (W - 1 + B, workers) saying who failed.

        Every worker's plain parts must be there, and n - lambda coded results of each group.
        """
        plain = np.zeros(self.workers, int)
        for k, lost in enumerate(slow):
            done = plain >= self.window - 1
            if k >= self.window - 1 and (done & ~lost).sum() < self.workers - self.spread:
                return False
            plain += ~done & ~lost
        return bool((plain >= self.window - 1).all())


def _check(workers: int, what: str, value: int, low: int) -> None:
    if not low <= value < workers:
        raise InvalidInput(
            f"{value} {what} of {workers} workers leave nobody; give at least {low} and fewer "
            "than all."
        )
