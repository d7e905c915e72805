"""Learning rate and batch size for a size and its tokens."""

from __future__ import annotations

from typing import ClassVar, final

from ...units import show_count
from ..choice import Choice, MethodReport, law_of, outside, predict

SHARES = (0.25, 0.5, 1.0, 2.0, 4.0)


@final
class Hyperparameters(Choice):
    """Peak learning rate and batch at the compute-optimal size, and around it.

    References
    ----------
    Li et al. 2025, Predictable Scale: Step Law, arXiv 2503.04715; sizes from Besiroglu et al. 2024,
    arXiv 2404.10102.
    """

    title: ClassVar[str] = "learning rate and batch size"
    reference: ClassVar[str] = "Step Law, arXiv 2503.04715"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "params": (0.0, "size; 0: the compute-optimal one"),
    }

    def run(self, budget_flop: float, settings: dict[str, float]) -> MethodReport:
        _, sizes, theta = law_of("besiroglu-2024")
        rate, law_lr, theta_lr = law_of("steplaw-2025-lr")
        _, law_b, theta_b = law_of("steplaw-2025-batch")
        chosen = settings["params"]
        n0 = chosen if chosen else sizes.optimum(theta, budget_flop).inputs["params"]
        records = []
        for share in SHARES:
            n = n0 * share
            tokens = budget_flop / (6.0 * n)
            records.append({
                "params": n, "tokens": tokens,
                "lr": predict(law_lr, theta_lr, params=n, tokens=tokens),
                "batch_tokens": predict(law_b, theta_b, params=n, tokens=tokens),
            })  # fmt: skip
        best = records[SHARES.index(1.0)]
        steps = best["tokens"] / best["batch_tokens"]
        return MethodReport(
            title=f"Hyperparameters for {budget_flop:.3g} FLOP",
            columns=("params", "tokens", "lr", "batch_tokens"), records=records,
            conclusion=f"At {show_count(best['params'])} parameters: peak learning rate "
            f"{best['lr']:.2g}, batch {show_count(best['batch_tokens'])} tokens, {steps:,.0f} "
            "steps."
            + outside(rate, params=best["params"], tokens=best["tokens"]),
        )  # fmt: skip


CHOICE = Hyperparameters()
