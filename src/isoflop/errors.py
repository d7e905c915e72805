"""Errors that are sentences for people: what was given, the rule, the next step.

Everything a wrong input can cause derives from `IsoflopError`; the command line and the web
page catch that class alone. A traceback therefore always means a bug in isoflop itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IsoflopError(Exception):
    """Base of every error a user's input can cause. Its text is one or more full sentences."""


class UnitError(IsoflopError):
    """A quantity string that does not parse, or whose unit has the wrong dimension."""


class InvalidInput(IsoflopError):
    """A value outside its range: NaN, zero where positive is needed, a malformed file."""


class InvalidPlan(IsoflopError):
    """A parallel plan that does not divide the model or the machine it is meant for."""


class DoesNotFit(IsoflopError):
    """A model that needs more memory than there is.

    Attributes
    ----------
    needed_bytes, available_bytes : float
        Both per device.
    """

    def __init__(self, message: str, *, needed_bytes: float, available_bytes: float):
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes


class CatalogError(IsoflopError):
    """One catalog file and all of its problems at once.

    Attributes
    ----------
    path : str
    problems : tuple of str
    """

    def __init__(self, path: str, problems: Iterable[str]):
        self.path = str(path)
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"{self.path} has {count} problem{'s' if count != 1 else ''}:"
        super().__init__("\n  - ".join([head, *self.problems]))


class UnknownName(IsoflopError):
    """A name that is not in a catalog or registry, with the nearest ones that are.

    Attributes
    ----------
    kind, name : str
    suggestions : tuple of str
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = ""):
        self.kind = kind
        self.name = name
        self.suggestions = nearest(name, known)
        text = f"There is no {kind} called '{name}'."
        if self.suggestions:
            text += f" The nearest names are: {', '.join(self.suggestions)}."
        super().__init__(f"{text} {hint}".rstrip())


class FitError(IsoflopError):
    """A fit that cannot be done or trusted: too few points, a constant column, no optimum."""


class MissingExtra(IsoflopError):
    """An optional dependency that the asked-for feature needs and that is not installed."""

    def __init__(self, feature: str, extra: str):
        super().__init__(
            f"{feature} needs an optional dependency that is not installed. "
            f"Install it with: pip install 'isoflop[{extra}]'."
        )


def nearest(name: str, known: Iterable[str], count: int = 4) -> tuple[str, ...]:
    """The `count` known names closest to `name`: substrings first, then by edit similarity."""
    names = sorted(set(known))
    wanted = name.lower()
    by_lower = {n.lower(): n for n in names}
    inside = [n for n in names if wanted and (wanted in n.lower() or n.lower() in wanted)]
    inside.sort(key=lambda n: abs(len(n) - len(name)))
    close = [by_lower[m] for m in difflib.get_close_matches(wanted, by_lower, count, 0.5)]
    return tuple(dict.fromkeys([*inside[:count], *close]))[:count]
