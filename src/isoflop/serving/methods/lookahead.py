"""Lookahead reasoning: speculation on steps of thought above speculation on tokens."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ...cost.step import StepModel
from ...errors import InvalidInput
from ..method import Method, MethodReport

DEPTHS = (1, 2, 4, 8, 16)


@final
class Lookahead(Method):
    """Speed-up of two levels of speculation that multiply.

    Tokens: (1 - a^(g+1)) / ((1 - a)(1 + g c)). Steps, k drafted ahead and checked together:
    (1 - s^k) / ((1 - s)(1 - d + d k)). With unlimited depth the step level tends to
    1 / (d + (1 - d)(1 - s)). These hold where k (g + 1) tokens pass through the model in the time
    of one; `slower` is what the device takes longer for them, with `context` cached tokens each,
    and `gain` what is left of the product. What the judge of a step costs is left out.

    Checked: the formulas against simulated rounds, the bound against an unlimited depth. The
    paper reports 1.4 times from tokens and up to 2.1 from both; acceptances of 0.5 and 0.4 give 1.6
    and 2.0.

    References
    ----------
    Fu et al. 2025, Scaling Speculative Decoding with Lookahead Reasoning, arXiv 2506.19830.
    Leviathan et al. 2023, arXiv 2211.17192.
    """

    title: ClassVar[str] = "speculation on steps of thought above speculation on tokens"
    reference: ClassVar[str] = "Lookahead Reasoning, arXiv 2506.19830"
    example: ClassVar[str] = "qwen3-32b --on h200"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "token_acceptance": (0.7, "chance that a drafted token is accepted"),
        "draft_tokens": (4.0, "tokens drafted per pass"),
        "token_cost": (0.05, "draft pass over target pass"),
        "step_acceptance": (0.5, "chance that a drafted step is accepted"),
        "step_cost": (0.1, "drafting a step over generating it"),
        "context": (2048.0, "cached tokens of the sequence"),
    }

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        a, s = settings["token_acceptance"], settings["step_acceptance"]
        if a >= 1 or s >= 1:
            raise InvalidInput("Acceptance rates are below 1.")
        g, c, d = settings["draft_tokens"], settings["token_cost"], settings["step_cost"]
        tokens = token_speedup(a, g, c)
        context = np.array(settings["context"])
        records = []
        for k in DEPTHS:
            steps = step_speedup(k, s, d)
            together = k * (g + 1.0)
            slower = float(step.decode_s(np.array(together), context)
                           / step.decode_s(np.array(1.0), context))  # fmt: skip
            records.append({"depth": k, "steps": steps, "tokens": tokens, "both": steps * tokens,
                            "concurrent_tokens": int(together), "slower": slower,
                            "gain": steps * tokens / slower})  # fmt: skip
        best = max(records, key=lambda r: r["gain"])
        limit = 1 / (d + (1 - d) * (1 - s))
        text = (
            f"Tokens alone give {tokens:.2f} times; with {best['depth']} steps ahead "
            f"{best['both']:.2f} times, {best['gain']:.2f} with what the device takes for "
            f"{best['concurrent_tokens']} tokens at once. Unlimited asynchronous depth is bound "
            f"at {limit * tokens:.2f} times."
        )
        return MethodReport(title="Expected speed-up of one sequence", columns=("depth", "steps",
                            "tokens", "both", "concurrent_tokens", "slower", "gain"),
                            records=records, conclusion=text)  # fmt: skip


def token_speedup(acceptance: float, drafted: float, cost: float) -> float:
    """Of one level of token speculation (Leviathan et al. 2023, theorem 3.8)."""
    return (1 - acceptance ** (drafted + 1)) / ((1 - acceptance) * (1 + drafted * cost))


def step_speedup(depth: int, acceptance: float, cost: float) -> float:
    """Of `depth` steps generated at once: the first for certain, the others behind drafts."""
    return (1 - acceptance**depth) / ((1 - acceptance) * (1 - cost + cost * depth))


METHOD = Lookahead()
