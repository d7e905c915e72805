"""How sparse a mixture of experts, and how fine its experts."""

from __future__ import annotations

from typing import ClassVar, final

from ..choice import Choice, MethodReport, best_size, law_of, outside, predict

SPARSITY = (0.0, 0.5, 0.75, 0.875, 0.9375, 0.96875)
GRANULARITY = (1, 2, 4, 8, 16, 32)
ROUTER_COST = 14.0
"""Routing FLOP per expert and token over those of a multiply-add (Krajewski et al., equation 8)."""


@final
class Experts(Choice):
    """Loss at a budget by sparsity, then by granularity.

    Sparsity S: total parameters N, of which (1 - S) N work on a token; training costs
    6 (1 - S) N D. Granularity G: experts G times smaller than a dense layer, G times as many
    active; routing adds work in proportion to G (their equation 8, simplified to a share
    14 G E / (12 width) of a layer with E = 64 experts).

    References
    ----------
    Abnar et al. 2025, Parameters vs FLOPs, arXiv 2501.12370; Krajewski et al. 2024, Scaling Laws
    for Fine-Grained Mixture of Experts, arXiv 2402.07871.
    """

    title: ClassVar[str] = "how sparse a mixture of experts, and how fine its experts"
    reference: ClassVar[str] = "Parameters vs FLOPs, arXiv 2501.12370; arXiv 2402.07871"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "experts": (64.0, "ratio of total to active parameters in the granularity table"),
        "width": (4096.0, "hidden width, which sets the router's share"),
    }

    def run(self, budget_flop: float, settings: dict[str, float]) -> MethodReport:
        sparse, law, theta = law_of("abnar-2025")
        records = []
        for s in SPARSITY:

            def loss(n: float, s: float = s) -> float:
                tokens = budget_flop / (6.0 * (1.0 - s) * n)
                return predict(law, theta, params=n, tokens=tokens, sparsity=s)

            n, value = best_size(loss)
            records.append({
                "choice": f"sparsity {s:g}", "total_params": n, "active_params": (1.0 - s) * n,
                "tokens": budget_flop / (6.0 * (1.0 - s) * n), "loss": value,
            })  # fmt: skip
        fine, law2, theta2 = law_of("krajewski-2024")
        for g in GRANULARITY:
            router = ROUTER_COST * g * settings["experts"] / (12.0 * settings["width"])

            def finer(n: float, g: int = g, router: float = router) -> float:
                tokens = budget_flop / (6.0 * n * (1.0 + router))
                return predict(law2, theta2, params=n, tokens=tokens, granularity=g)

            n, value = best_size(finer)
            records.append({
                "choice": f"granularity {g}", "total_params": n * settings["experts"],
                "active_params": n, "tokens": budget_flop / (6.0 * n * (1.0 + router)),
                "loss": value,
            })  # fmt: skip
        best = min(records[: len(SPARSITY)], key=lambda r: r["loss"])
        finest = min(records[len(SPARSITY) :], key=lambda r: r["loss"])
        dense = records[0]
        return MethodReport(
            title=f"Mixtures of experts for {budget_flop:.3g} FLOP (two laws: compare within each)",
            columns=("choice", "total_params", "active_params", "tokens", "loss"),
            records=records,
            conclusion=f"{best['choice'].capitalize()} is best of the first law: "
            f"{best['loss']:.4f} against {dense['loss']:.4f} dense; {finest['choice']} of the "
            "second."
            + outside(sparse, params=best["total_params"], tokens=best["tokens"])
            + outside(fine, params=finest["active_params"], tokens=finest["tokens"]),
        )  # fmt: skip


CHOICE = Experts()
