"""What a fleet really achieves in training: the searched plan's utilisation, for budgets.

A budget in hours or dollars buys FLOP at the rate a good plan reaches, which depends on the size
of the model and the fleet. The plan is searched for the dense model of the ladder nearest in size.
"""

from __future__ import annotations

import math

from attrs import frozen

from ..errors import IsoflopError
from ..formats import load_format
from ..hardware import load_fleet
from ..models import load_model
from ..training.fleet import network_of
from ..training.plan import Recipe, TrainingJob
from ..training.report import describe_plan
from ..training.search import search_plans
from ..training.space import SpaceLimits

LADDER = ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "llama-2-13b", "llama-3.1-70b",
          "llama-3.1-405b")  # fmt: skip
"""Dense models whose shape stands for their size."""
SEQUENCE = 4096
STEP_TOKENS = 1 << 22
NORMAL_90 = 1.645


@frozen(kw_only=True)
class Utilization:
    """Share of the dense 16-bit rate that goes into 6 N D, with its 90% interval.

    Attributes
    ----------
    low, middle, high : float
    note : str
        Which model and plan it stands on.
    """

    low: float
    middle: float
    high: float
    note: str


def achieved(on: str, params: float) -> Utilization | None:
    """Utilisation of the best plan for a dense model of about `params` on a fleet.

    None where no plan fits or the fleet has no calibrated training times to search with.
    """
    device, count, cluster = load_fleet(on)
    nearest = min(LADDER, key=lambda m: abs(math.log(load_model(m).parameters / params)))
    model = load_model(nearest)
    sequence = min(SEQUENCE, model.max_context)
    job = TrainingJob(model=model, global_batch=max(STEP_TOKENS // sequence, count),
                      sequence_tokens=sequence)  # fmt: skip
    try:
        limits = SpaceLimits(node=network_of(device, cluster, count).node)
        found = search_plans(job, Recipe(), device, count, cluster, limits=limits)
        report = describe_plan(job, Recipe(), device, count, found.best, cluster)
    except IsoflopError:
        return None
    peak = device.matrix_rate(load_format("bf16"))[0] * count
    middle = 6.0 * model.parameters * report.tokens_per_s / peak * report.goodput.useful
    spread = math.exp(NORMAL_90 * report.sigma)
    return Utilization(low=middle / spread, middle=middle, high=min(1.0, middle * spread),
                       note=f"plan {report.plan.describe()} for {model.name}")  # fmt: skip
