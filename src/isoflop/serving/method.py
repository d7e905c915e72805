"""What a serving method is: one paper's idea, priced by the cost engine for a model and device."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .. import registry
from ..cost.step import StepModel
from ..method import MethodReport, Named

__all__ = ["Method", "MethodReport", "find_method", "method_names"]

PACKAGE = "isoflop.serving.methods"


class Method(Named, ABC):
    """A method, one file each in `isoflop/serving/methods/` defining `METHOD`."""

    @abstractmethod
    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        """What the method does for `step` under complete settings."""


def find_method(name: str) -> Method:
    """The method called `name`; `UnknownName` with suggestions otherwise."""
    return registry.find(PACKAGE, name, "METHOD", "serving method")


def method_names() -> tuple[str, ...]:
    """Names of every method."""
    return registry.names(PACKAGE)
