"""In which shares to mix five domains."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np

from ...errors import InvalidInput
from ..choice import Choice, MethodReport, law_of
from ..laws.mixture import shares

DOMAINS = 5


@final
class Mix(Choice):
    """Shares that minimise a weighted mean of five domain losses, by five mixing laws.

    The laws were fitted on 26 mixtures of a 410M-parameter model, and shares stay within those of
    these mixtures. They say nothing of the budget: proportions found at a small size are used at a
    large one (Ye et al., section 4).

    References
    ----------
    Ye et al. 2024, Data Mixing Laws, arXiv 2403.16952.
    """

    title: ClassVar[str] = "in which shares to mix five domains"
    reference: ClassVar[str] = "Data Mixing Laws, arXiv 2403.16952"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        f"weight_{i}": (0.0, f"weight of the loss on domain {i}; all 0: equal")
        for i in range(1, DOMAINS + 1)
    }

    def run(self, budget_flop: float, settings: dict[str, float]) -> MethodReport:
        weights = np.array([settings[f"weight_{i}"] for i in range(1, DOMAINS + 1)])
        weights = weights / weights.sum() if weights.any() else np.full(DOMAINS, 1.0 / DOMAINS)
        laws = [law_of(f"ye-2024-domain-{i}-refit") for i in range(1, DOMAINS + 1)]
        limits = [laws[0][0].ranges()[name] for name in shares(DOMAINS)]

        def losses(r: Any) -> np.ndarray:
            x = {name: np.array([v]) for name, v in zip(shares(DOMAINS), r)}
            return np.array([law.predict(theta, x)[0] for _, law, theta in laws])

        best = best_mixture(lambda r: float(weights @ losses(r)), limits)
        flat = np.array([high for _, high in limits])
        flat = flat / flat.sum()
        at, even = losses(best), losses(flat)
        records = [
            {"domain": i + 1, "weight": float(weights[i]), "share": float(best[i]),
             "loss": float(at[i]), "loss_even": float(even[i])}
            for i in range(DOMAINS)
        ]  # fmt: skip
        return MethodReport(
            title="Shares of five domains, and the loss on each",
            columns=("domain", "weight", "share", "loss", "loss_even"), records=records,
            conclusion=f"Weighted loss {weights @ at:.4f}, against {weights @ even:.4f} where all "
            "shares are in proportion to the largest that were tried.",
        )  # fmt: skip


def best_mixture(loss: Any, limits: list[tuple[float, float]]) -> np.ndarray:
    """Shares on the simplex within limits that minimise a smooth loss, from several starts.

    Raises
    ------
    InvalidInput
        If the limits admit no shares that sum to one.
    """
    from scipy.optimize import minimize

    low, high = np.array(limits).T
    if low.sum() > 1 or high.sum() < 1:
        raise InvalidInput("The limits of the shares leave no mixture that sums to one.")
    rng = np.random.default_rng(0)
    best: Any = None
    for _ in range(8):
        start = low + (1.0 - low.sum()) * rng.dirichlet(np.ones(len(low)))
        found = minimize(
            loss, np.clip(start, low, high), method="SLSQP", bounds=limits,
            constraints={"type": "eq", "fun": lambda r: r.sum() - 1.0}, options={"ftol": 1e-10},
        )  # fmt: skip
        if found.success and (best is None or found.fun < best.fun):
            best = found
    return np.asarray(best.x)


CHOICE = Mix()
