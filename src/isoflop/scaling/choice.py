"""What a choice is: a decision beyond size and tokens, from one published law."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from .. import registry
from ..method import MethodReport, Named
from .law import Array, Data, Law
from .published import PublishedLaw, load_published

__all__ = ["Choice", "MethodReport", "best_size", "choice_names", "find_choice", "predict"]

PACKAGE = "isoflop.scaling.choices"
LOW_N, HIGH_N = 1e6, 1e14


class Choice(Named, ABC):
    """A decision, one file each in `isoflop/scaling/choices/` defining `CHOICE`."""

    @abstractmethod
    def run(self, budget_flop: float, settings: dict[str, float]) -> MethodReport:
        """The table of alternatives at a training budget, and the best of them."""


def find_choice(name: str) -> Choice:
    """The choice called `name`; `UnknownName` with suggestions otherwise."""
    return registry.find(PACKAGE, name, "CHOICE", "choice")


def choice_names() -> tuple[str, ...]:
    """Names of every choice."""
    return registry.names(PACKAGE)


def law_of(name: str) -> tuple[PublishedLaw, Law, Array]:
    """A published law, its form and its constants."""
    found = load_published(name)
    return found, found.form(), found.theta()


def predict(law: Law, theta: Array, **inputs: float) -> float:
    """The law's output at one point."""
    x: Data = {k: np.atleast_1d(np.asarray(v, float)) for k, v in inputs.items()}
    return float(law.predict(theta, x)[0])


def best_size(loss: Callable[[float], float]) -> tuple[float, float]:
    """Size that minimises a unimodal loss of it, and the loss: golden section in log N."""
    low, high = np.log(LOW_N), np.log(HIGH_N)
    ratio = (np.sqrt(5.0) - 1.0) / 2.0
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = loss(float(np.exp(a))), loss(float(np.exp(b)))
    while high - low > 1e-9:
        if fa <= fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = loss(float(np.exp(a)))
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = loss(float(np.exp(b)))
    n = float(np.exp(0.5 * (low + high)))
    return n, loss(n)


def outside(law: PublishedLaw, **inputs: float) -> str:
    """A sentence where inputs leave the range the law was fitted on; empty inside."""
    out = [
        name for name, (low, high) in law.ranges().items()
        if name in inputs and not low <= inputs[name] <= high
    ]  # fmt: skip
    if not out:
        return ""
    return f" This extrapolates {' and '.join(out)} beyond the runs of {law.id}."
