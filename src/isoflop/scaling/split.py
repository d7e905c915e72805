"""A budget split between size and tokens, for laws whose optimum has no closed form."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import InvalidInput
from .law import Allocation, Array, Law

LOW_N, HIGH_N = 1e5, 1e15
GRID = 801
"""Sizes tried in each round: three rounds narrow 10 decades to a relative 1e-6."""
ROUNDS = 4


def split_budget(
    law: Law, theta: Array, budget_flop: float, given: Mapping[str, float], *, share: float = 1.0,
    sizes: tuple[float, float] = (LOW_N, HIGH_N),
) -> Allocation:  # fmt: skip
    """The size and tokens of the lowest prediction along 6 share N D = budget.

    Parameters
    ----------
    given : mapping
        The law's other inputs.
    share : float
        Part of the parameters that works on a token.
    sizes : (low, high)
        Parameters searched.

    Raises
    ------
    InvalidInput
        If another input is missing.
    """
    others = [name for name in law.inputs if name not in ("params", "tokens")]
    missing = [name for name in others if name not in given]
    if missing:
        raise InvalidInput(
            f"The law '{law.name}' also needs {', '.join(missing)}: "
            f"{' '.join(f'--given {name}=VALUE' for name in missing)}."
        )
    low, high = np.log(sizes[0]), np.log(sizes[1])
    n, y, i, x = np.zeros(0), np.zeros(0), 0, {}
    for _ in range(ROUNDS):
        n = np.exp(np.linspace(low, high, GRID))
        x = {name: np.full(GRID, float(given[name])) for name in others}
        x = {**x, "params": n, "tokens": budget_flop / (6.0 * share * n)}
        with np.errstate(all="ignore"):
            y = law.predict(theta, x)
        i = int(np.nanargmin(y))
        low, high = np.log(n[max(i - 1, 0)]), np.log(n[min(i + 1, GRID - 1)])
    return Allocation(inputs={"params": float(n[i]), "tokens": float(x["tokens"][i])},
                      prediction=float(y[i]))  # fmt: skip
