"""Flows that hashing puts on the same path of a network, and what the slowest of them keeps."""

from __future__ import annotations

import numpy as np

from ..cost.features import Array
from ..errors import InvalidInput

MOST_FLOWS = 256
LOG_FACTORIAL = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, MOST_FLOWS + 1.0)))])


def largest_load(flows: int, paths: int) -> Array:
    """Probability that the fullest of `paths` paths carries 0, 1, ..., `flows` of `flows` flows.

    Every flow takes a path by chance; exact, path by path.

    Raises
    ------
    InvalidInput
        If there is no flow or no path, or more than MOST_FLOWS.
    """
    if not (1 <= flows <= MOST_FLOWS and 1 <= paths <= MOST_FLOWS):
        raise InvalidInput(
            f"There are {flows} flows and {paths} paths; each must lie between 1 and {MOST_FLOWS}."
        )
    at_most = np.zeros(flows + 1)
    for most in range(1, flows + 1):
        at_most[most] = _none_above(flows, paths, most)
        if at_most[most] > 1.0 - 1e-12:
            at_most[most:] = 1.0
            break
    return np.diff(at_most, prepend=0.0)


def _none_above(flows: int, paths: int, most: int) -> float:
    """Probability that no path carries more than `most` flows.

    Of the flows that are left, those on the next path are binomial.
    """
    left = np.zeros(flows + 1)
    left[flows] = 1.0
    for after in range(paths - 1, -1, -1):
        chance = 1.0 / (after + 1.0)
        following = np.zeros_like(left)
        for count in np.flatnonzero(left > 1e-18):
            taken = np.arange(min(most, count) + 1)
            following[count - taken] += left[count] * _binomial(int(count), taken, chance)
        left = following
    return float(left[0])


def _binomial(count: int, taken: Array, chance: float) -> Array:
    if chance == 1.0:
        return (taken == count).astype(float)
    log = LOG_FACTORIAL[count] - LOG_FACTORIAL[taken] - LOG_FACTORIAL[count - taken]
    return np.exp(log + taken * np.log(chance) + (count - taken) * np.log1p(-chance))


def slowest_share(flows: int, paths: int) -> float:
    """Mean share of its rate that the slowest flow keeps, against flows spread evenly.

    A collective ends with its slowest flow. 1 where paths are planned.
    """
    chance = largest_load(flows, paths)
    even = -(-flows // paths)
    loads = np.arange(1, flows + 1)
    return float(np.sum(chance[1:] * even / np.maximum(loads, even)))
