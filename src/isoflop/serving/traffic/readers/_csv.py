"""Columns of a CSV by name, every problem with its line."""

from __future__ import annotations

import csv
from collections.abc import Sequence

from attrs import frozen

from ....cost.features import Array
from ....errors import InvalidInput
from ._fields import lengths, numbers


@frozen
class Columns:
    """Columns as text, without blank lines.

    Attributes
    ----------
    name : str
        Of the file.
    lines : list of int
        Line of each row, from 1.
    text : dict of list of str
        Fields by column.
    """

    name: str
    lines: list[int]
    text: dict[str, list[str]]

    def __contains__(self, column: str) -> bool:
        return column in self.text

    def numbers(self, column: str, what: str = "") -> Array:
        """A column of numbers, called `what` in messages."""
        return numbers(self.text[column], what or column, self.name, self.lines)

    def lengths(self, column: str) -> Array:
        """A column of token counts."""
        return lengths(self.text[column], column, self.name, self.lines)


def columns(
    lines: Sequence[str], wanted: Sequence[str], name: str, optional: Sequence[str] = ()
) -> Columns:
    """The wanted columns and those of the optional ones that are there, matched without case.

    Raises
    ------
    InvalidInput
        If a column or a field is missing, a column is there twice, or a row has more fields than
        the header.
    """
    rows = csv.reader(lines)
    try:
        header = [
            h.strip().lower() for h in next(row for row in rows if any(f.strip() for f in row))
        ]
        places = _places(header, wanted, optional, name)
        out = Columns(name, [], {c: [] for c in places})
        for row in rows:
            if not any(field.strip() for field in row):
                continue
            if any(field.strip() for field in row[len(header) :]):
                raise InvalidInput(
                    f"Line {rows.line_num} of '{name}' has {len(row)} fields, its header "
                    f"{len(header)}. Write numbers without separators of thousands."
                )
            for column, place in places.items():
                if place >= len(row) or not row[place].strip():
                    raise InvalidInput(f"Line {rows.line_num} of '{name}' has no {column}.")
                out.text[column].append(row[place].strip())
            out.lines.append(rows.line_num)
    except csv.Error as error:
        raise InvalidInput(f"Line {rows.line_num} of '{name}' is no CSV: {error}.") from None
    return out


def _places(
    header: list[str], wanted: Sequence[str], optional: Sequence[str], name: str
) -> dict[str, int]:
    """Where in a row each column is."""
    absent = [w for w in wanted if w.lower() not in header]
    if absent:
        raise InvalidInput(
            f"'{name}' has no column {', '.join(absent)}; it has {', '.join(header)}."
        )
    places = {c: header.index(c.lower()) for c in (*wanted, *optional) if c.lower() in header}
    twice = [c for c in places if header.count(c.lower()) > 1]
    if twice:
        raise InvalidInput(f"'{name}' has more than one column {twice[0]}; keep one of them.")
    return places
