"""How often to repeat the data there is."""

from __future__ import annotations

from typing import ClassVar, final

from ...units import show_count
from ..choice import Choice, MethodReport, law_of, outside, predict

EPOCHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@final
class Epochs(Choice):
    """Loss at a budget by passes over limited data, the size following from the budget.

    References
    ----------
    Muennighoff et al. 2023, Scaling Data-Constrained Language Models, arXiv 2305.16264.
    """

    title: ClassVar[str] = "how often to repeat the data there is"
    reference: ClassVar[str] = "Scaling Data-Constrained Language Models, arXiv 2305.16264"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "unique_tokens": (1e11, "tokens of distinct data"),
    }

    def run(self, budget_flop: float, settings: dict[str, float]) -> MethodReport:
        published, law, theta = law_of("muennighoff-2023")
        unique = settings["unique_tokens"]
        records = []
        for epochs in EPOCHS:
            tokens = epochs * unique
            n = budget_flop / (6.0 * tokens)
            value = predict(law, theta, params=n, tokens=tokens, unique_tokens=min(unique, tokens))
            fresh = predict(law, theta, params=n, tokens=tokens, unique_tokens=tokens)
            records.append({"epochs": epochs, "tokens": tokens, "params": n, "loss": value,
                            "loss_if_fresh": fresh})  # fmt: skip
        best = min(records, key=lambda r: r["loss"])
        return MethodReport(
            title=f"{show_count(unique)} distinct tokens, {budget_flop:.3g} FLOP",
            columns=("epochs", "tokens", "params", "loss", "loss_if_fresh"), records=records,
            conclusion=f"About {best['epochs']:g} epochs are best; repetition costs "
            f"{best['loss'] - best['loss_if_fresh']:.4f} against fresh tokens."
            + outside(published, params=best["params"], tokens=best["tokens"]),
        )  # fmt: skip


CHOICE = Epochs()
