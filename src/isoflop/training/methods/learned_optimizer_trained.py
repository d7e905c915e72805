"""A learned optimizer that is trained here, beside tuned ones: what it saves and what it costs."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np

from ...cost.features import Array
from ...errors import InvalidInput
from ..learned import (
    DECAYS,
    FEATURES,
    Evolution,
    Rule,
    adam,
    cooled,
    evaluate,
    learned,
    momentum,
    train_rule,
)
from ..method import MethodReport, Setting, TrainingMethod
from ..update import VECTOR_SHARE
from ..update_rules import ADAM, SGD_MOMENTUM, perceptron_rule, update_cost

RATES = {
    "SGD, momentum": (0.6, 1.0, 2.0, 3.0, 5.0), "Adam": (0.02, 0.04, 0.06, 0.1, 0.15),
    "Adam, cosine": (0.04, 0.06, 0.1, 0.15, 0.2),
}  # fmt: skip
"""Rates tried on tasks apart from those that count; the best of each is inside its grid."""
COSTS = {"SGD, momentum": SGD_MOMENTUM, "Adam": ADAM, "Adam, cosine": ADAM}
TASKS, TUNING_TASKS = 128, 32
"""Tasks that judge, and that rates are tuned on."""
TUNED_ON, JUDGED_ON = 1, 2
"""Seeds of the two sets."""
LAST = 10
"""Steps whose mean is the final loss."""
MEMORY_SHARE = 0.8
"""Share of memory bandwidth that updates reach; estimate."""
MOST_UPDATES = 2000
"""About half a minute on one core."""


@final
class LearnedOptimizerTrained(TrainingMethod):
    """A rule trained by persistent evolution strategies in seconds, judged on tasks it never saw.

    Tasks are two-layer networks of 212 parameters that learn what random teachers answer; SGD and
    Adam, also with a cosine schedule, have their rates tuned on tasks apart from those that judge.
    `steps` are those until the loss of tuned Adam's last steps is reached; `time` weighs them with
    what the update costs for the asked-for model, whose own training the toy says nothing about: it
    asks whether such a saving would pay.

    References
    ----------
    Metz et al. 2022, Practical tradeoffs between memory, compute, and performance in learned
    optimizers, arXiv 2203.11860.
    """

    title: ClassVar[str] = "a learned optimizer trained on toy tasks, beside tuned ones"
    reference: ClassVar[str] = "Practical tradeoffs in learned optimizers, arXiv 2203.11860"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "updates": (300.0, "outer updates of the rule's training, at most 2000"),
        "hidden": (8.0, "width of the rule's network"),
        "batch": (8.0, "sequences of a step per device, for the model's overhead"),
        "seed": (1.0, "of the rule's training"),
    }

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        updates, hidden = round(settings["updates"]), round(settings["hidden"])
        if not 1 <= updates <= MOST_UPDATES or not 1 <= hidden <= 256:
            raise InvalidInput(
                f"{updates} updates of a rule of width {hidden}: between 1 and {MOST_UPDATES:,} "
                "updates and a width between 1 and 256 are needed."
            )
        evolution = Evolution()
        theta, _ = train_rule(
            hidden, updates, np.random.default_rng(round(settings["seed"])), evolution
        )
        steps = evolution.horizon
        curves: dict[str, tuple[float | None, Array]] = {n: tuned(n, steps) for n in RATES}
        many = learned(np.repeat(theta[None], TASKS, axis=0), hidden)
        name = f"learned, width {hidden}"
        curves[name] = (None, evaluate(many, steps, TASKS, JUDGED_ON))
        costs = COSTS | {name: perceptron_rule(name, FEATURES, hidden, 1, len(DECAYS) + 1)}
        compute = setting.compute_s(int(settings["batch"]))
        target = float(curves["Adam"][1][-LAST:].mean())
        records: list[dict[str, Any]] = []
        for rule, (rate, curve) in curves.items():
            update, _ = update_cost(costs[rule], float(setting.model.parameters), setting.device,
                                    VECTOR_SHARE, MEMORY_SHARE)  # fmt: skip
            records.append({
                "rule": rule, "rate": rate, "mean_loss": float(curve.mean()),
                "final_loss": float(curve[-LAST:].mean()), "steps": reached(curve, target),
                "flop_per_parameter": costs[rule].flop, "update_s": update,
                "overhead": update / compute,
            })  # fmt: skip
        return self._report(setting, records)

    @staticmethod
    def _report(setting: Setting, records: list[dict[str, Any]]) -> MethodReport:
        base, ours = records[1], records[-1]
        whole = base["steps"] * (1.0 + base["overhead"])
        for r in records:
            r["time"] = None if r["steps"] is None else r["steps"] * (1.0 + r["overhead"]) / whole
        got = "never reaches" if ours["steps"] is None else f"in {ours['steps']} steps reaches"
        more = (1.0 + ours["overhead"]) / (1.0 + base["overhead"]) - 1.0
        return MethodReport(
            title=f"Toy tasks; updates of {setting.model.name} on {setting.device.name}",
            columns=("rule", "rate", "mean_loss", "final_loss", "steps", "flop_per_parameter",
                     "update_s", "overhead", "time"),
            records=records,
            conclusion=f"The trained rule {got} the loss that tuned Adam ends with (first after "
            f"{base['steps']} steps); a step of this model takes {more:.1%} longer with it, so it "
            f"pays where it saves more than {more / (1.0 + more):.1%} of the steps.",
        )  # fmt: skip


def build(name: str, rate: float, steps: int) -> Rule:
    """A hand-designed rule by its name in RATES."""
    if name == "SGD, momentum":
        return momentum(rate)
    return cooled(adam, rate, steps) if name == "Adam, cosine" else adam(rate)


def tuned(name: str, steps: int) -> tuple[float, Array]:
    """The rate of a hand-designed rule with the least mean loss, and its curve on other tasks."""
    rate = min(
        RATES[name],
        key=lambda r: float(evaluate(build(name, r, steps), steps, TUNING_TASKS, TUNED_ON).mean()),
    )
    return rate, evaluate(build(name, rate, steps), steps, TASKS, JUDGED_ON)


def reached(curve: Array, target: float) -> int | None:
    """The first step by which the mean over LAST steps is at or under a loss; None where never."""
    means = np.convolve(curve, np.ones(LAST) / LAST, mode="valid")
    under = np.flatnonzero(means <= target * (1.0 + 1e-12))
    return int(under[0]) + LAST if len(under) else None


METHOD = LearnedOptimizerTrained()
