"""Lookahead reasoning: speculation on steps of thought above speculation on tokens."""

from __future__ import annotations

from typing import ClassVar, final

from ...cost.step import StepModel
from ...errors import InvalidInput
from ..method import Method, MethodReport

DEPTHS = (1, 2, 4, 8, 16)


@final
class Lookahead(Method):
    """Speed-up of two levels of speculation that multiply.

    Tokens: (1 - a^(g+1)) / ((1 - a)(1 + g c)). Steps, k drafted ahead and checked together:
    (1 - s^k) / ((1 - s)(1 - d + d k)). With unlimited depth the step level tends to
    1 / (d + (1 - d)(1 - s)).

    References
    ----------
    Fu et al. 2025, Scaling Speculative Decoding with Lookahead Reasoning, arXiv 2506.19830.
    Leviathan et al. 2023, arXiv 2211.17192.
    """

    title: ClassVar[str] = "speculation on steps of thought above speculation on tokens"
    reference: ClassVar[str] = "Lookahead Reasoning, arXiv 2506.19830"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "token_acceptance": (0.7, "chance that a drafted token is accepted"),
        "draft_tokens": (4.0, "tokens drafted per pass"),
        "token_cost": (0.05, "draft pass over target pass"),
        "step_acceptance": (0.5, "chance that a drafted step is accepted"),
        "step_cost": (0.1, "drafting a step over generating it"),
    }

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        a, s = settings["token_acceptance"], settings["step_acceptance"]
        if a >= 1 or s >= 1:
            raise InvalidInput("Acceptance rates are below 1.")
        g, c, d = settings["draft_tokens"], settings["token_cost"], settings["step_cost"]
        tokens = (1 - a ** (g + 1)) / ((1 - a) * (1 + g * c))
        records = []
        for k in DEPTHS:
            steps = (1 - s**k) / ((1 - s) * (1 - d + d * k))
            records.append({"depth": k, "steps": steps, "tokens": tokens, "both": steps * tokens,
                            "concurrent_tokens": k * (g + 1)})  # fmt: skip
        best = max(records, key=lambda r: r["both"])
        limit = 1 / (d + (1 - d) * (1 - s))
        text = (
            f"Tokens alone give {tokens:.2f} times; with {best['depth']} steps ahead "
            f"{best['both']:.2f} times. Unlimited asynchronous depth is bound at "
            f"{limit * tokens:.2f} times."
        )
        return MethodReport(title="Expected speed-up at batch 1", columns=("depth", "steps",
                            "tokens", "both", "concurrent_tokens"), records=records,
                            conclusion=text)  # fmt: skip


METHOD = Lookahead()
