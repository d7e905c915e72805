"""Records of a JSON-lines file, every problem with its line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ....errors import InvalidInput


def records(lines: Sequence[str], wanted: Sequence[str], name: str) -> list[dict[str, Any]]:
    """One dict per line that is not blank, each with the wanted keys.

    Raises
    ------
    InvalidInput
        If a line is no JSON object, or lacks a key.
    """
    out = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"Line {number} of '{name}' is not JSON: {error.msg}.") from None
        missing = [w for w in wanted if not isinstance(value, dict) or w not in value]
        if missing:
            raise InvalidInput(f"Line {number} of '{name}' has no {', '.join(missing)}.")
        out.append(value)
    return out


def lengths(values: Sequence[Any], what: str, name: str) -> list[int]:
    """Token counts, with the line of the first that is not a number of at least 1."""
    for number, value in enumerate(values, start=1):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 1:
            raise InvalidInput(
                f"Line {number} of '{name}' has a {what} of {value}; it must be at least 1."
            )
    return [int(v) for v in values]
