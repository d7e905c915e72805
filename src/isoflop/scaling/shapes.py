"""When a model that may change its shape in training should change it.

Each shape (patch size, width, context length) has a law of its error in compute. A model that keeps
its error when it is reshaped can follow, at every error, the law that falls fastest there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve, frozen

from ..errors import InvalidInput
from .decide import Believed
from .fit import central_interval
from .law import Array

GRID = 4000
"""Budgets at which each law is read; between them log compute is linear in error."""
STEPS = 2000
"""Errors at which the schedule may change the shape."""
DRAWS = 200
BEYOND = 1e4
"""A schedule may reach errors for which one shape alone would need more than the budget."""
DECADES = 6
"""Below the budget, where a law does not say from which compute on it holds."""


@frozen(kw_only=True)
class Segment:
    """One shape for a while: errors at its two ends and the FLOP between."""

    shape: str
    error_from: float
    error_to: float
    flop: float


@frozen(kw_only=True)
class ShapeSchedule:
    """Shapes in the order of training, beside the best single shape.

    Attributes
    ----------
    error : float
        Reached with the budget.
    single, single_error : str, float
        The shape that reaches the lowest error with the whole budget, and that error.
    matching_flop : float
        What the schedule needs for that error; at most the budget.
    saving : float
        Share of the budget that the schedule saves at the single shape's error, in [0, 1].
    saving95 : (low, high) or None
        From the fits' resamples, each shape's drawn on its own.
    """

    budget_flop: float
    segments: tuple[Segment, ...]
    error: float
    single: str
    single_error: float
    matching_flop: float
    saving: float
    saving95: tuple[float, float] | None


def schedule_shapes(fits: Sequence[Believed], budget_flop: float) -> ShapeSchedule:
    """The schedule of shapes that reaches the lowest error with a budget.

    Parameters
    ----------
    fits : sequence of Believed
        At least two, of laws whose only input is `compute_flop`, named after their shapes.
    budget_flop : float
        Training FLOP over all shapes together.

    Raises
    ------
    InvalidInput
        If a law has another input, or there are fewer than two.

    References
    ----------
    Anagnostidis et al. 2023, Navigating Scaling Laws: Compute Optimality in Adaptive Model
    Training, arXiv 2311.03233, section 3: at every error take the law whose inverse is least steep.
    """
    if len(fits) < 2:
        raise InvalidInput("A schedule of shapes needs the fits of at least two shapes.")
    for fit in fits:
        if fit.law.inputs != ("compute_flop",):
            raise InvalidInput(
                f"The fit '{fit.name}' is of the law '{fit.law.name}', which takes "
                f"{', '.join(fit.law.inputs)}; a shape's law takes compute_flop alone, such as "
                "vision-shape, power-compute or broken-power."
            )
    start = min(
        (f.valid["compute_flop"][0] for f in fits if "compute_flop" in f.valid),
        default=budget_flop * 10.0**-DECADES,
    )
    if not start < budget_flop:
        raise InvalidInput(
            f"A budget of {budget_flop:.3g} FLOP is below the smallest run of the fits, "
            f"{start:.3g} FLOP: nothing is known there."
        )
    flop = np.append(np.geomspace(start, budget_flop, GRID),
                     np.geomspace(budget_flop, budget_flop * BEYOND, GRID // 2)[1:])  # fmt: skip
    names = [f.name for f in fits]
    found = _schedule(
        names, flop, budget_flop, [f.law.predict(f.theta, {"compute_flop": flop}) for f in fits]
    )
    draws = min(len(f.draws) for f in fits)
    if draws < 40:
        return found
    rng = np.random.default_rng(0)
    savings = []
    for _ in range(DRAWS):
        curves = [f.law.predict(f.draws[rng.integers(len(f.draws))], {"compute_flop": flop})
                  for f in fits]  # fmt: skip
        savings.append(_schedule(names, flop, budget_flop, curves).saving)
    low, high = central_interval(np.array(savings))
    return evolve(found, saving95=(max(low, 0.0), min(high, 1.0)))


def _schedule(
    names: list[str], flop: Array, budget_flop: float, curves: list[Array]
) -> ShapeSchedule:
    """The schedule over error curves at the same budgets, cheapest first."""
    curves = [np.minimum.accumulate(c) for c in curves]
    errors = np.geomspace(min(c[0] for c in curves), min(c[-1] for c in curves), STEPS + 1)
    # FLOP of each shape at each error: a step between two errors is what its law asks for it, and
    # never reached is infinite.
    reach = np.array([_inverse(c, flop, errors) for c in curves])
    with np.errstate(invalid="ignore"):
        steps = np.diff(reach, axis=1)
    steps = np.where(np.isfinite(steps), np.maximum(steps, 0.0), np.inf)
    follow = np.argmin(steps, axis=0)
    begun = reach[:, 0].min()
    spent = np.concatenate([[begun], begun + np.cumsum(steps.min(axis=0))])
    reached = float(np.interp(budget_flop, spent, errors))
    last = min(int(np.searchsorted(spent, budget_flop)), len(follow)) - 1
    changes = [0, *(np.flatnonzero(np.diff(follow[: last + 1])) + 1).tolist(), last + 1]
    ends = [float(e) for e in errors[changes[:-1]]] + [reached]
    flops = [float(f) for f in spent[changes[:-1]]] + [budget_flop]
    segments = [
        Segment(shape=names[follow[k]], error_from=ends[i], error_to=ends[i + 1],
                flop=flops[i + 1] - flops[i])
        for i, k in enumerate(changes[:-1])
    ]  # fmt: skip
    at_budget = [c[GRID - 1] for c in curves]
    best = int(np.argmin(at_budget))
    alone = float(at_budget[best])
    matching = min(float(np.interp(-alone, -errors, spent)), budget_flop)
    return ShapeSchedule(
        budget_flop=budget_flop, segments=tuple(segments), error=reached,
        single=names[best], single_error=alone, matching_flop=matching,
        saving=1.0 - matching / budget_flop, saving95=None,
    )  # fmt: skip


def _inverse(curve: Array, flop: Array, errors: Array) -> Array:
    """FLOP at which a falling curve reaches each error; infinite below its last."""
    down = curve[::-1]
    logs = np.interp(errors, down, np.log(flop)[::-1])
    return np.where(errors < curve[-1] * (1.0 - 1e-12), np.inf, np.exp(logs))
