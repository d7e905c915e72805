"""Azure LLM inference traces: TIMESTAMP, ContextTokens, GeneratedTokens."""

from __future__ import annotations

from datetime import datetime
from typing import final

import numpy as np

from ....errors import InvalidInput
from ..trace import Trace, sort_check
from ._csv import columns, numbers


@final
class Azure:
    """Reader of the 2023 (and later) Azure traces.

    References
    ----------
    Patel et al. 2024, Splitwise, arXiv 2311.18677; Azure/AzurePublicDataset.
    """

    @staticmethod
    def knows(first_line: str) -> bool:
        return first_line.lstrip("\ufeff").lower().startswith("timestamp,contexttokens")

    @staticmethod
    def read(lines: list[str], name: str) -> Trace:
        stamps, prompt, output = columns(
            lines, ["TIMESTAMP", "ContextTokens", "GeneratedTokens"], name
        )
        arrival = np.array([_seconds(s, i, name) for i, s in enumerate(stamps, start=2)])
        arrival -= arrival[0]
        sort_check(arrival, name, 2, relative=True)
        return Trace(
            name=name, arrival_s=arrival,
            prompt_tokens=np.array(numbers(prompt, "prompt length", name, least=1), np.int64),
            output_tokens=np.array(numbers(output, "output length", name, least=1), np.int64),
        )  # fmt: skip


def _seconds(stamp: str, line: int, name: str) -> float:
    head, _, fraction = stamp.partition(".")
    try:
        whole = datetime.fromisoformat(head).timestamp()
        return whole + float(f"0.{fraction.split('+')[0]}" if fraction else 0.0)
    except ValueError:
        raise InvalidInput(f"Line {line} of '{name}' has '{stamp}', which is no time.") from None


READER = Azure()
