"""The plain format: a CSV with arrival_s, prompt_tokens and output_tokens."""

from __future__ import annotations

from typing import final

import numpy as np

from ....cost.features import Array
from ....errors import InvalidInput
from ..trace import Trace, sort_check
from ._csv import Columns, columns


@final
class Plain:
    """Reader of plain CSVs; further columns `user` (a number or name) and `priority` are
    optional."""

    @staticmethod
    def knows(first_line: str) -> bool:
        names = [n.strip().strip('"') for n in first_line.lower().split(",")]
        return "arrival_s" in names

    @staticmethod
    def read(lines: list[str], name: str) -> Trace:
        found = columns(lines, ["arrival_s", "prompt_tokens", "output_tokens"], name,
                        ["user", "priority"])  # fmt: skip
        times = found.numbers("arrival_s", "arrival time")
        sort_check(times, name, found.lines)
        return Trace(
            name=name, arrival_s=times, prompt_tokens=found.lengths("prompt_tokens"),
            output_tokens=found.lengths("output_tokens"),
            user=_users(found) if "user" in found else None,  # type: ignore[arg-type]
            priority=_priorities(found) if "priority" in found else None,  # type: ignore[arg-type]
        )  # fmt: skip


def _users(found: Columns) -> Array:
    """Whole numbers counted from 0, whatever users are called in the file."""
    places: dict[str, int] = {}
    return np.array([places.setdefault(u, len(places)) for u in found.text["user"]], np.int64)


def _priorities(found: Columns) -> Array:
    values = found.numbers("priority")
    for line, value in zip(found.lines, values):
        if not np.isfinite(value):
            raise InvalidInput(f"Line {line} of '{found.name}' has {value} as priority, which "
                               "orders nothing.")  # fmt: skip
    return values


READER = Plain()
