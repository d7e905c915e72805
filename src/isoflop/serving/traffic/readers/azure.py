"""Azure LLM inference traces: TIMESTAMP, ContextTokens, GeneratedTokens."""

from __future__ import annotations

from datetime import datetime
from typing import final

import numpy as np

from ....errors import InvalidInput
from ..trace import Trace, sort_check
from ._csv import columns


@final
class Azure:
    """Reader of the 2023 (and later) Azure traces.

    References
    ----------
    Patel et al. 2024, Splitwise, arXiv 2311.18677; Azure/AzurePublicDataset.
    """

    @staticmethod
    def knows(first_line: str) -> bool:
        return first_line.lower().startswith("timestamp,contexttokens")

    @staticmethod
    def read(lines: list[str], name: str) -> Trace:
        found = columns(lines, ["TIMESTAMP", "ContextTokens", "GeneratedTokens"], name)
        stamps = found.text["TIMESTAMP"]
        arrival = np.array([_seconds(s, n, name) for n, s in zip(found.lines, stamps)])
        arrival -= arrival[0] if len(arrival) else 0.0
        sort_check(arrival, name, found.lines, relative=True)
        return Trace(
            name=name, arrival_s=arrival, prompt_tokens=found.lengths("ContextTokens"),
            output_tokens=found.lengths("GeneratedTokens"),
        )  # fmt: skip


def _seconds(stamp: str, line: int, name: str) -> float:
    head, _, fraction = stamp.partition(".")
    try:
        whole = datetime.fromisoformat(head).timestamp()
        return whole + float(f"0.{fraction.split('+')[0]}" if fraction else 0.0)
    except ValueError:
        raise InvalidInput(f"Line {line} of '{name}' has '{stamp}', which is no time.") from None


READER = Azure()
