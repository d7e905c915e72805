"""How many tokens in the vocabulary."""

from __future__ import annotations

import math
from typing import ClassVar, final

from ..choice import Choice, MethodReport, law_of

SLOPE = 0.83
"""Growth of the best vocabulary's parameters with the others'."""
ANCHOR = 70e9, 216_000 * 8192.0
"""Non-vocabulary and vocabulary parameters: the published 216K tokens for Llama-2-70B."""
SHARES = (0.1, 0.3, 1.0, 3.0, 10.0)


@final
class VocabularySize(Choice):
    """Vocabulary at the compute-optimal size, by parameters that grow more slowly than the rest's.

    N_v = N_v0 (N_nv / N_nv0)^0.83, anchored at the 216K tokens that the paper gives Llama-2-70B.
    Its second published point, 43K tokens at 3B parameters, is 8% above this line.

    References
    ----------
    Tao et al. 2024, Scaling Laws with Vocabulary, arXiv 2407.13623 (approach 2).
    """

    title: ClassVar[str] = "how many tokens in the vocabulary"
    reference: ClassVar[str] = "Scaling Laws with Vocabulary, arXiv 2407.13623"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "params": (0.0, "parameters without the vocabulary; 0: the compute-optimal number"),
        "aspect": (128.0, "width over layers, which sets the width of a size"),
    }

    def run(self, budget_flop: float, settings: dict[str, float]) -> MethodReport:
        _, sizes, theta = law_of("besiroglu-2024")
        chosen = settings["params"]
        n0 = chosen if chosen else sizes.optimum(theta, budget_flop).inputs["params"]
        records = []
        for share in SHARES:
            n = n0 * share
            width = width_of(n, settings["aspect"])
            vocab_params = best_vocab_params(n)
            records.append({"params": n, "width": width, "vocab_params": vocab_params,
                            "vocab": vocab_params / width})  # fmt: skip
        best = records[SHARES.index(1.0)]
        return MethodReport(
            title=f"Vocabulary for {budget_flop:.3g} FLOP",
            columns=("params", "width", "vocab_params", "vocab"), records=records,
            conclusion=f"At {best['params']:.3g} parameters: about {best['vocab']:,.0f} tokens "
            f"({best['vocab_params'] / best['params']:.1%} of the parameters).",
        )  # fmt: skip


def width_of(params: float, aspect: float) -> float:
    """Width of a transformer of 12 layers x width^2 parameters with width = aspect x layers."""
    return (params * aspect / 12.0) ** (1.0 / 3.0)


def best_vocab_params(params: float) -> float:
    """Vocabulary parameters for the others."""
    return ANCHOR[1] * math.pow(params / ANCHOR[0], SLOPE)


CHOICE = VocabularySize()
