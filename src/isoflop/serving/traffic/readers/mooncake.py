"""Mooncake traces: milliseconds, lengths and the hashes of 512-token prefix blocks."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from ....errors import InvalidInput
from ..trace import Trace, sort_check
from ._jsonl import records

UNIT_TOKENS = 512


@final
class Mooncake:
    """Reader of Mooncake's JSONL traces.

    References
    ----------
    Qin et al. 2024, Mooncake, arXiv 2407.00079, section 4: block size 512.
    """

    @staticmethod
    def knows(first_line: str) -> bool:
        return '"input_length"' in first_line and '"timestamp"' in first_line

    @staticmethod
    def read(lines: list[str], name: str) -> Trace:
        found = records(lines, ["timestamp", "input_length", "output_length"], name)
        arrival = found.numbers("timestamp") / 1000.0
        sort_check(arrival, name, found.lines)
        hashed = [_hashes(v, n, name) for n, v in zip(found.lines, found.values)]
        # Numbered from 0, so that a unit is an index.
        places: dict[Any, int] = {}
        units = [places.setdefault(h, len(places)) for hashes in hashed for h in hashes]
        return Trace(
            name=name, arrival_s=arrival, prompt_tokens=found.lengths("input_length"),
            output_tokens=found.lengths("output_length"), units=np.array(units, np.int64),
            unit_offsets=np.concatenate([[0], np.cumsum([len(h) for h in hashed])]).astype(int),
            unit_tokens=UNIT_TOKENS,
        )  # fmt: skip


def _hashes(record: dict[str, Any], line: int, name: str) -> list[Any]:
    """Names of a request's prefix blocks."""
    found = record.get("hash_ids", [])
    if not isinstance(found, list) or not all(isinstance(h, (int, str)) for h in found):
        raise InvalidInput(
            f"Line {line} of '{name}' has hash_ids that are no list of numbers or names."
        )
    return found


READER = Mooncake()
