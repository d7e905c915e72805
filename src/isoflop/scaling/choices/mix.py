"""In which shares to mix five domains."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np

from ...errors import InvalidInput, MissingExtra
from ...units import show_count
from ..choice import Choice, MethodReport, law_of, outside
from ..laws.mixture import shares

DOMAINS = 5


@final
class Mix(Choice):
    """Shares that minimise a weighted mean of five domain losses, at the size a budget buys.

    Five mixing laws with a term of size, fitted on 26 mixtures at each of four sizes, 70M to 410M
    parameters; shares stay within those of these mixtures. The budget buys the size at which the
    losses are given, the compute-optimal one of `besiroglu-2024` unless it is given; the shares
    come out the same at every budget, as size and mixture add up in the form that predicts the
    largest of the four sizes best. Sizes far beyond them are extrapolations, and said to be.

    References
    ----------
    Ye et al. 2024, Data Mixing Laws, arXiv 2403.16952.
    """

    title: ClassVar[str] = "in which shares to mix five domains"
    reference: ClassVar[str] = "Data Mixing Laws, arXiv 2403.16952"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        **{f"weight_{i}": (0.0, f"weight of the loss on domain {i}; all 0: equal")
           for i in range(1, DOMAINS + 1)},
        "params": (0.0, "parameters; 0: the compute-optimal number"),
    }  # fmt: skip

    def run(self, budget_flop: float, settings: dict[str, float]) -> MethodReport:
        weights = np.array([settings[f"weight_{i}"] for i in range(1, DOMAINS + 1)])
        weights = weights / weights.sum() if weights.any() else np.full(DOMAINS, 1.0 / DOMAINS)
        laws = [law_of(f"ye-2024-domain-{i}-sized-refit") for i in range(1, DOMAINS + 1)]
        _, sizes, constants = law_of("besiroglu-2024")
        n = settings["params"] or sizes.optimum(constants, budget_flop).inputs["params"]
        limits = [laws[0][0].ranges()[name] for name in shares(DOMAINS)]

        def losses(r: Any) -> np.ndarray:
            x = {name: np.array([v]) for name, v in zip(shares(DOMAINS), r)}
            x["params"] = np.array([n])
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
            title=f"Shares of five domains for {budget_flop:.3g} FLOP: the loss on each at "
            f"{show_count(n)} parameters",
            columns=("domain", "weight", "share", "loss", "loss_even"), records=records,
            conclusion=f"Weighted loss {weights @ at:.4f}, against {weights @ even:.4f} where all "
            "shares are in proportion to the largest that were tried. The shares hold at every "
            "budget; the losses are those of the size it buys." + outside(laws[0][0], params=n),
        )  # fmt: skip


def best_mixture(loss: Any, limits: list[tuple[float, float]]) -> np.ndarray:
    """Shares on the simplex within limits that minimise a smooth loss, from several starts.

    Raises
    ------
    InvalidInput
        If the limits admit no shares that sum to one.
    """
    try:
        from scipy.optimize import minimize
    except ImportError:
        raise MissingExtra("Searching mixtures", "fit") from None
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
