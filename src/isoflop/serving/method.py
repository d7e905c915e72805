"""What a serving method is: one paper's idea, priced by the cost engine for a model and device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from attrs import frozen

from .. import registry
from ..cost.step import StepModel
from ..errors import InvalidInput

PACKAGE = "isoflop.serving.methods"


@frozen(kw_only=True)
class MethodReport:
    """A table and what it says.

    Attributes
    ----------
    title : str
    columns : tuple of str
    records : list of dict
        One per row, by column name; numbers in SI units.
    conclusion : str
    """

    title: str
    columns: tuple[str, ...]
    records: list[dict[str, Any]]
    conclusion: str

    def rows(self) -> list[dict[str, Any]]:
        """Plain records."""
        return self.records


class Method(ABC):
    """A method, one file each in `isoflop/serving/methods/` defining `METHOD`.

    Class attributes
    ----------------
    title, reference : str
    options : dict of str to (default, meaning)
        Numbers the user may set.
    """

    title: ClassVar[str]
    reference: ClassVar[str]
    options: ClassVar[dict[str, tuple[float, str]]]

    @abstractmethod
    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        """What the method does for `step` under complete settings."""

    def complete(self, given: dict[str, float]) -> dict[str, float]:
        """The given options over the defaults.

        Raises
        ------
        InvalidInput
            For an option the method does not have, or one that is not a positive number.
        """
        unknown = [k for k in given if k not in self.options]
        if unknown:
            raise InvalidInput(
                f"This method has no option {', '.join(unknown)}; it has {', '.join(self.options)}."
            )
        for name, value in given.items():
            if not 0.0 < value < float("inf"):
                raise InvalidInput(f"The option {name} is {value}; it must be a positive number.")
        return {**{k: v[0] for k, v in self.options.items()}, **given}


def find_method(name: str) -> Method:
    """The method called `name`; `UnknownName` with suggestions otherwise."""
    return registry.find(PACKAGE, name, "METHOD", "serving method")


def method_names() -> tuple[str, ...]:
    """Names of every method."""
    return registry.names(PACKAGE)
