"""Sort & Search: a new model's answers on a whole benchmark from a few of them."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ..cost.features import Array
from ..errors import InvalidInput


@frozen(kw_only=True)
class Ranked:
    """Samples in order of difficulty, easiest first.

    Attributes
    ----------
    order : array of int
        Sample of each place.
    thresholds : array of int
        Per known model, how many of the easiest it is taken to answer.
    error : float
        Share of the known answers that the thresholds get wrong: the part no threshold explains.
    """

    order: Array
    thresholds: Array
    error: float


def best_threshold(answers: Array) -> tuple[int, int]:
    """Number of leading ones that fits a 0/1 row best, and the answers it gets wrong.

    Exact: errors of every threshold from one cumulative sum.
    """
    wrong = np.concatenate([[0], np.cumsum(1 - answers)]) + answers.sum()
    wrong = wrong - np.concatenate([[0], np.cumsum(answers)])
    k = int(np.argmin(wrong))
    return k, int(wrong[k])


def rank(answers: Array, rounds: int = 10) -> Ranked:
    """Order samples by how many known models answer them, then refine.

    Each round replaces answers by their thresholds' and sorts by the sum of both, as long as the
    error falls (the paper's alternating minimisation).

    Parameters
    ----------
    answers : array (models, samples)
        1 where the model is right.

    Raises
    ------
    InvalidInput
        If it holds anything but 0 and 1, or nothing.
    """
    a = np.asarray(answers)
    if a.ndim != 2 or not a.size or not np.isin(a, (0, 1)).all():
        raise InvalidInput(
            "Answers are a table of 0 and 1, one row per model and one column per sample."
        )
    a = a.astype(np.int64)
    best: Ranked | None = None
    weight = a.sum(axis=0).astype(float)
    for _ in range(rounds):
        order = np.argsort(-weight, kind="stable")
        fitted = [best_threshold(row[order]) for row in a]
        error = sum(w for _, w in fitted) / a.size
        if best is not None and error >= best.error:
            break
        best = Ranked(order=order, thresholds=np.array([k for k, _ in fitted]), error=error)
        place = np.empty(len(order), int)
        place[order] = np.arange(len(order))
        believed = place[None, :] < best.thresholds[:, None]
        weight = a.sum(axis=0) + believed.sum(axis=0)
    assert best is not None
    return best


def sample_places(samples: int, budget: int) -> Array:
    """Places to evaluate a new model at: evenly spread over the order of difficulty."""
    if not 1 <= budget <= samples:
        raise InvalidInput(f"Between 1 and {samples:,} samples can be evaluated, not {budget:,}.")
    return np.unique(np.round((np.arange(budget) + 0.5) * samples / budget - 0.5).astype(int))


def predict(ranked: Ranked, places: Array, answers: Array) -> tuple[Array, float]:
    """Answers of a new model on every sample, and its accuracy, from those at some places.

    Single answers: the threshold that fits the evaluated places best, between two places the
    middle. Accuracy: the mean of the evaluated answers, which lie evenly over the difficulties
    and so vary less than as many random ones; counting the threshold instead would be biased
    where answers are noisy.
    """
    seen = np.asarray(answers, np.int64)
    k, _ = best_threshold(seen)
    total = len(ranked.order)
    edges = np.concatenate([[-1], np.asarray(places), [total]])
    threshold = int(edges[k] + 1 + edges[k + 1]) // 2 if k < len(edges) - 1 else total
    believed = np.zeros(total, np.int64)
    believed[ranked.order[:threshold]] = 1
    return believed, float(seen.mean())
