"""Columns of a CSV by name, every problem with its line."""

from __future__ import annotations

import csv
from collections.abc import Sequence

from ....errors import InvalidInput


def columns(lines: Sequence[str], wanted: Sequence[str], name: str) -> list[list[str]]:
    """The wanted columns (matched without case) as text, one list each.

    Raises
    ------
    InvalidInput
        If a column or a field is missing.
    """
    rows = csv.reader(lines)
    header = [h.strip().lower().lstrip("\ufeff") for h in next(rows)]
    absent = [w for w in wanted if w.lower() not in header]
    if absent:
        raise InvalidInput(
            f"'{name}' has no column {', '.join(absent)}; it has {', '.join(header)}."
        )
    places = [header.index(w.lower()) for w in wanted]
    out: list[list[str]] = [[] for _ in wanted]
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        for column, place, what in zip(out, places, wanted):
            if place >= len(row) or not row[place].strip():
                raise InvalidInput(f"Line {number} of '{name}' has no {what}.")
            column.append(row[place].strip())
    return out


def numbers(values: Sequence[str], what: str, name: str, *, least: float) -> list[float]:
    """Text as numbers of at least `least`, with the line of the first that is not."""
    out = []
    for number, text in enumerate(values, start=2):
        try:
            value = float(text)
        except ValueError:
            raise InvalidInput(
                f"Line {number} of '{name}' has '{text}' as {what}, which is not a number."
            ) from None
        if not value >= least:
            raise InvalidInput(
                f"Line {number} of '{name}' has a {what} of {text}; it must be at least {least:g}."
            )
        out.append(value)
    return out
