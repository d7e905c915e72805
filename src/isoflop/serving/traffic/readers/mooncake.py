"""Mooncake traces: milliseconds, lengths and the hashes of 512-token prefix blocks."""

from __future__ import annotations

from typing import final

import numpy as np

from ..trace import Trace, sort_check
from ._jsonl import lengths, records

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
        arrival = np.array([float(r["timestamp"]) for r in found]) / 1000.0
        sort_check(arrival, name, 1)
        hashed = [r.get("hash_ids", []) for r in found]
        flat = np.array([h for hashes in hashed for h in hashes], np.int64)
        # Renumbered from 0, so that a unit is an index.
        units = np.unique(flat, return_inverse=True)[1].astype(np.int64) if len(flat) else flat
        return Trace(
            name=name, arrival_s=arrival,
            prompt_tokens=np.array(
                lengths([r["input_length"] for r in found], "input_length", name), np.int64
            ),
            output_tokens=np.array(
                lengths([r["output_length"] for r in found], "output_length", name), np.int64
            ),
            units=units,
            unit_offsets=np.concatenate([[0], np.cumsum([len(h) for h in hashed])]),
            unit_tokens=UNIT_TOKENS,
        )  # fmt: skip


READER = Mooncake()
