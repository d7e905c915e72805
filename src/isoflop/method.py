"""What a method is: one paper's idea as a table of numbers, with options and a conclusion."""

from __future__ import annotations

from typing import Any, ClassVar

from attrs import field, frozen

from .errors import InvalidInput


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
    series : list of dict
        Values over time behind the table, where a method simulates in time; empty otherwise.
    """

    title: str
    columns: tuple[str, ...]
    records: list[dict[str, Any]]
    conclusion: str
    series: list[dict[str, Any]] = field(factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """Plain records."""
        return self.records


class Named:
    """What all methods have.

    Class attributes
    ----------------
    title, reference : str
    example : str
        What follows the method's name on a command line that shows it; empty for the usual one.
    options : dict of str to (default, meaning)
        Numbers the user may set; positive, or zero where the default is.
    """

    title: ClassVar[str]
    reference: ClassVar[str]
    example: ClassVar[str] = ""
    options: ClassVar[dict[str, tuple[float, str]]]

    def complete(self, given: dict[str, float]) -> dict[str, float]:
        """The given options over the defaults.

        Raises
        ------
        InvalidInput
            For an option the method does not have, or a value it cannot take.
        """
        unknown = [k for k in given if k not in self.options]
        if unknown:
            raise InvalidInput(
                f"This method has no option {', '.join(unknown)}; it has {', '.join(self.options)}."
            )
        for name, value in given.items():
            zero = self.options[name][0] == 0.0
            if not (0.0 < value < float("inf") or (zero and value == 0.0)):
                what = "zero or a positive number" if zero else "a positive number"
                raise InvalidInput(f"The option {name} is {value}; it must be {what}.")
        return {**{k: v[0] for k, v in self.options.items()}, **given}
