"""How many tokens in the vocabulary."""

from __future__ import annotations

import math
from typing import ClassVar, final

import numpy as np

from ...units import show_count
from ..choice import Choice, MethodReport, law_of

SIZE_LOG, SIZE_SLOPE = -2.4846510161625193, 0.5
"""Of the optimal non-vocabulary parameters by training FLOP."""
WORDS_LOG, WORDS_SLOPE = -1.589031299255507, 0.4163622634135234
"""Of the optimal vocabulary parameters by training FLOP (approach 1)."""
ANCHOR = 33e6, 3_145_728.0
"""Non-vocabulary and best vocabulary parameters of the smallest model (approach 2),"""
GROWTH = 0.8353974035228025
"""and the power by which the second grows with the first."""
SHARES = (0.1, 0.3, 1.0, 3.0, 10.0)


@final
class VocabularySize(Choice):
    """Vocabulary of models around the compute-optimal size, by the paper's three approaches.

    By compute: power laws through the best runs of each budget. By slope: vocabulary parameters
    grow as the 0.835th power of the others from the smallest model's optimum. By loss: the fitted
    law minimised at the budget, so that a model trained on more tokens than is optimal gets a
    larger vocabulary; the first two assume the optimum. Constants are those of the authors' code.

    References
    ----------
    Tao et al. 2024, Scaling Laws with Vocabulary, arXiv 2407.13623, section 4.
    """

    title: ClassVar[str] = "how many tokens in the vocabulary"
    reference: ClassVar[str] = "Scaling Laws with Vocabulary, arXiv 2407.13623"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "params": (0.0, "parameters without the vocabulary; 0: the compute-optimal number"),
        "aspect": (128.0, "width over layers, which sets the width of a size"),
    }

    def run(self, budget_flop: float, settings: dict[str, float]) -> MethodReport:
        chosen = settings["params"]
        middle = chosen if chosen else math.exp(SIZE_LOG) * budget_flop**SIZE_SLOPE
        records = []
        for share in SHARES:
            n = middle * share
            width = width_of(n, settings["aspect"])
            records.append({
                "params": n, "width": width,
                "by_compute": best_by_compute(budget_of(n)) / width,
                "by_slope": best_by_slope(n) / width,
                "vocab": best_by_loss(n, budget_flop, width) / width,
            })  # fmt: skip
        best = records[SHARES.index(1.0)]
        found = sorted(best[k] for k in ("by_compute", "by_slope", "vocab"))
        return MethodReport(
            title=f"Vocabulary for {budget_flop:.3g} FLOP",
            columns=("params", "width", "by_compute", "by_slope", "vocab"), records=records,
            conclusion=f"At {show_count(best['params'])} parameters: about "
            f"{best['vocab']:,.0f} tokens, by the loss at this budget "
            f"({found[0]:,.0f} to {found[-1]:,.0f} by the three "
            f"approaches; {best['vocab'] * best['width'] / best['params']:.1%} of the "
            "parameters).",
        )  # fmt: skip


def width_of(params: float, aspect: float) -> float:
    """Width of a transformer of 12 layers x width^2 parameters with width = aspect x layers."""
    return (params * aspect / 12.0) ** (1.0 / 3.0)


def budget_of(params: float) -> float:
    """Training FLOP at which so many non-vocabulary parameters are optimal."""
    return (params / math.exp(SIZE_LOG)) ** (1.0 / SIZE_SLOPE)


def best_by_compute(flop: float) -> float:
    """Vocabulary parameters by training FLOP (approach 1)."""
    return math.exp(WORDS_LOG) * flop**WORDS_SLOPE


def best_by_slope(params: float) -> float:
    """Vocabulary parameters by the others (approach 2)."""
    return ANCHOR[1] * (params / ANCHOR[0]) ** GROWTH


def best_by_loss(params: float, flop: float, width: float) -> float:
    """Vocabulary parameters of the lowest loss at a size and a budget (approach 3).

    A larger vocabulary costs compute, so fewer tokens are left: 6 (N_nv + N_v) tokens = FLOP.
    """
    _, law, theta = law_of("tao-2024")
    c = law.constants(theta)
    low, high, words, i = math.log(1e2 * width), math.log(1e7 * width), np.zeros(0), 0
    for _ in range(4):
        words = np.exp(np.linspace(low, high, 401))
        tokens = flop / (6.0 * (params + words))
        i = int(np.argmin(c["A_2"] * words ** -c["a_2"] + c["B"] * tokens ** -c["b"]))
        low, high = math.log(words[max(i - 1, 0)]), math.log(words[min(i + 1, 400)])
    return float(words[i])


CHOICE = VocabularySize()
