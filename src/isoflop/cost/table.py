"""The array path: decoding steps tabulated once, then priced by interpolation.

A step's time is piecewise smooth in context and a staircase of tiles in the number of sequences,
so a grid of every number of sequences by enough contexts and bilinear interpolation reproduce the
full model: contexts are added until the interpolation holds `TOLERANCE`; `error` reports what it
is. This is what simulators and searches call millions of times.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike

from ..errors import InvalidInput
from .features import Array
from .step import StepModel

TOLERANCE = 1e-3
"""Largest relative difference from the full model that a default grid allows."""
REFINEMENTS = 12
"""Most times that the intervals of a default grid are halved."""
FIRST_CONTEXT_RATIO = 1.6


def knots(limit: float, dense: int = 16, ratio: float = 1.12) -> Array:
    """1, 2, ... `dense`, then geometric up to `limit`, which is always the last knot."""
    if not limit >= 1:
        raise InvalidInput(f"A table up to {limit} has no entries; the limit must be at least 1.")
    values = [float(v) for v in range(1, min(dense, int(limit)) + 1)]
    while values[-1] < limit:
        values.append(min(limit, max(values[-1] + 1, round(values[-1] * ratio))))
    return np.array(values, float)


@frozen(kw_only=True, eq=False)
class StepTable:
    """Decoding step times over (sequences, mean context) of one instance.

    Attributes
    ----------
    sequences, context : array
        Knots, increasing.
    seconds : array of shape (sequences, context)
    """

    sequences: Array
    context: Array
    seconds: Array

    @classmethod
    def build(
        cls, step: StepModel, *, max_sequences: float, context: ArrayLike | None = None,
        ratio: float = 1.0,
    ) -> StepTable:  # fmt: skip
        """Tabulate `step` up to `max_sequences`, at the given contexts or up to the model's own.

        Parameters
        ----------
        context : array or None
            Cached tokens per sequence at the knots; None chooses them so that `TOLERANCE` holds.
        ratio : float
            Spacing of the knots in sequences beyond the first sixteen; 1 takes every number.
        """
        s = knots(max_sequences, ratio=ratio)
        if context is not None:
            c = np.unique(np.asarray(context, float))
            return cls(sequences=s, context=c, seconds=step.decode_s(s[:, None], c[None, :]))
        c = knots(step.model.max_context, dense=1, ratio=FIRST_CONTEXT_RATIO)
        return cls._refined(step, s, np.concatenate([[0.0], c]))

    @classmethod
    def _refined(cls, step: StepModel, s: Array, c: Array) -> StepTable:
        """Intervals of context halved where their middle misses half of `TOLERANCE`."""
        seconds = np.asarray(step.decode_s(s[:, None], c[None, :]))
        checked = np.zeros(len(c) - 1, bool)
        for _ in range(REFINEMENTS):
            left = np.flatnonzero(~checked & (np.diff(c) > 1.0))
            if not len(left):
                break
            middle = 0.5 * (c[left] + c[left + 1])
            exact = np.asarray(step.decode_s(s[:, None], middle[None, :]))
            linear = 0.5 * (seconds[:, left] + seconds[:, left + 1])
            wrong = np.max(np.abs(linear / exact - 1.0), axis=0) > 0.5 * TOLERANCE
            checked[left[~wrong]] = True
            at = left[wrong] + 1
            c = np.insert(c, at, middle[wrong])
            seconds = np.insert(seconds, at, exact[:, wrong], axis=1)
            checked = np.insert(checked, left[wrong], False)
        return cls(sequences=s, context=c, seconds=seconds)

    def decode_s(self, sequences: ArrayLike, context: ArrayLike) -> Array:
        """Seconds of a decoding step; arrays broadcast, clamped to the table's range.

        Parameters
        ----------
        sequences, context : array
            Sequences in the step and mean cached tokens of each.
        """
        i, u = _locate(self.sequences, np.asarray(sequences, float))
        j, v = _locate(self.context, np.asarray(context, float))
        t = self.seconds
        if len(self.context) == 1:
            return t[i, 0] * (1 - u) + t[np.minimum(i + 1, len(self.sequences) - 1), 0] * u
        i1 = np.minimum(i + 1, len(self.sequences) - 1)
        low = t[i, j] * (1 - v) + t[i, j + 1] * v
        high = t[i1, j] * (1 - v) + t[i1, j + 1] * v
        return low * (1 - u) + high * u

    def error(self, step: StepModel, points: int = 200, seed: int = 0) -> float:
        """Largest relative difference from the full model at random whole-number batches.

        Sequences and half of the contexts are spread evenly in their logarithm.
        """
        rng = np.random.default_rng(seed)
        s = np.round(np.exp(rng.uniform(0, np.log(self.sequences[-1]), points)))
        c = rng.uniform(self.context[0], self.context[-1], points)
        low = max(1.0, self.context[0])
        c[::2] = np.exp(rng.uniform(np.log(low), np.log(max(low, self.context[-1])), len(c[::2])))
        return float(np.max(np.abs(self.decode_s(s, c) / step.decode_s(s, c) - 1)))


def _locate(grid: Array, value: Array) -> tuple[Array, Array]:
    """Cell index and position within it, clamped."""
    if len(grid) == 1:
        return np.zeros(value.shape, int), np.zeros(value.shape)
    index = np.clip(np.searchsorted(grid, value, side="right") - 1, 0, len(grid) - 2)
    width = grid[index + 1] - grid[index]
    return index, np.clip((value - grid[index]) / width, 0.0, 1.0)
