"""Records of a JSON-lines file, every problem with its line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from ....cost.features import Array
from ....errors import InvalidInput
from ._fields import lengths, numbers


@frozen
class Records:
    """Objects of the lines that are not blank.

    Attributes
    ----------
    name : str
        Of the file.
    lines : list of int
        Line of each record, from 1.
    values : list of dict
    """

    name: str
    lines: list[int]
    values: list[dict[str, Any]]

    def numbers(self, key: str) -> Array:
        """What every record has under a key, as numbers."""
        return numbers([v[key] for v in self.values], key, self.name, self.lines)

    def lengths(self, key: str) -> Array:
        """What every record has under a key, as token counts."""
        return lengths([v[key] for v in self.values], key, self.name, self.lines)


def records(lines: Sequence[str], wanted: Sequence[str], name: str) -> Records:
    """One dict per line that is not blank, each with the wanted keys.

    Raises
    ------
    InvalidInput
        If a line is no JSON object, or lacks a key.
    """
    out = Records(name, [], [])
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"Line {number} of '{name}' is not JSON: {error.msg}.") from None
        except (RecursionError, ValueError):  # nested beyond reason, or a number too long to read
            raise InvalidInput(f"Line {number} of '{name}' cannot be read as JSON.") from None
        missing = [w for w in wanted if not isinstance(value, dict) or w not in value]
        if missing:
            raise InvalidInput(f"Line {number} of '{name}' has no {', '.join(missing)}.")
        out.lines.append(number)
        out.values.append(value)
    return out
