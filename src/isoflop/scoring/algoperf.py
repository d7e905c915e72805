"""Time-to-result scores: performance profiles over workloads, and the area under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import frozen

from ..cost.features import Array
from ..errors import InvalidInput

LONGEST_RATIO = 4.0
"""Ratio to the fastest at which profiles end (AlgoPerf, section 4.5)."""


@frozen(kw_only=True)
class Profiles:
    """Scores of every submission.

    Attributes
    ----------
    names : tuple of str
    ratios : array (submissions, workloads)
        Time over the fastest submission's; infinite where the target was not reached.
    scores : array (submissions,)
        Area under the profile from ratio 1 to the longest, over its length: 1 is always fastest.
    """

    names: tuple[str, ...]
    workloads: tuple[str, ...]
    ratios: Array
    scores: Array

    def profile(self, submission: int, ratio: Array | float) -> Array:
        """Share of workloads within a ratio of the fastest."""
        within = self.ratios[submission][:, None] <= np.atleast_1d(ratio)[None, :]
        return within.mean(axis=0)


def performance_profiles(
    times: Mapping[str, Mapping[str, float]], longest: float = LONGEST_RATIO
) -> Profiles:
    """Profiles of submissions from their time to each workload's target; NaN or inf: not reached.

    The area is exact: each workload adds the length of the ratios from its own to the longest.

    References
    ----------
    Dahl et al. 2023, Benchmarking Neural Network Training Algorithms, arXiv 2306.07179, section
    4.5; Dolan and More 2002.

    Raises
    ------
    InvalidInput
        If submissions have different workloads, times are not positive, or nobody reached any.
    """
    if not longest > 1:
        raise InvalidInput(f"The longest ratio is {longest}; it must be above 1.")
    names = tuple(times)
    if not names:
        raise InvalidInput("There is no submission to score.")
    workloads = tuple(times[names[0]])
    for name in names:
        if set(times[name]) != set(workloads):
            odd = sorted(set(times[name]) ^ set(workloads))
            raise InvalidInput(
                f"'{name}' and '{names[0]}' differ in the workloads {', '.join(odd)}: leave a time "
                "empty where a target was not reached."
            )
    table = np.array([[times[n][w] for w in workloads] for n in names], float)
    table = np.where(np.isnan(table), np.inf, table)
    if np.any(table <= 0):
        raise InvalidInput("Times to a target are positive numbers.")
    fastest = table.min(axis=0)
    reached = np.isfinite(fastest)
    if not reached.any():
        raise InvalidInput("No submission reached any target.")
    ratios = np.full(table.shape, np.inf)
    ratios[:, reached] = table[:, reached] / fastest[reached]
    area = np.clip(longest - ratios, 0.0, longest - 1.0).mean(axis=1)
    return Profiles(names=names, workloads=workloads, ratios=ratios, scores=area / (longest - 1.0))


def read_times(rows: Sequence[Mapping[str, str]]) -> dict[str, dict[str, float]]:
    """Columns submission, workload, seconds; repeated rows are studies, whose median counts.

    A study that did not reach the target counts as infinite, so a target needs most studies.
    """
    seen: dict[str, dict[str, list[float]]] = {}
    for line, row in enumerate(rows, 2):
        text = row["seconds"].strip()
        try:
            value = float(text) if text else np.inf
        except ValueError:
            raise InvalidInput(f"Line {line}: '{text}' is not a time in seconds.") from None
        seen.setdefault(row["submission"], {}).setdefault(row["workload"], []).append(
            np.inf if np.isnan(value) else value
        )
    every = {w for by in seen.values() for w in by}
    return {
        name: {w: _median(by.get(w, [np.inf])) for w in sorted(every)} for name, by in seen.items()
    }


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    if np.isinf(ordered[middle]):
        return np.inf
    return 0.5 * (ordered[middle - 1] + ordered[middle])
