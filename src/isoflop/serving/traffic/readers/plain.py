"""The plain format: a CSV with arrival_s, prompt_tokens and output_tokens."""

from __future__ import annotations

from typing import final

import numpy as np

from ..trace import Trace, sort_check
from ._csv import columns, numbers


@final
class Plain:
    """Reader of plain CSVs; further columns `user` (whole number) and `priority` are optional."""

    @staticmethod
    def knows(first_line: str) -> bool:
        names = [n.strip() for n in first_line.lower().split(",")]
        return "arrival_s" in names

    @staticmethod
    def read(lines: list[str], name: str) -> Trace:
        wanted = ["arrival_s", "prompt_tokens", "output_tokens"]
        header = [h.strip().lower() for h in lines[0].split(",")]
        more = [c for c in ("user", "priority") if c in header]
        arrival, prompt, output, *rest = columns(lines, wanted + more, name)
        times = np.array(numbers(arrival, "arrival time", name, least=float("-inf")))
        sort_check(times, name, 2)
        extra = {c: np.array(numbers(v, c, name, least=0)) for c, v in zip(more, rest)}
        return Trace(
            name=name, arrival_s=times,
            prompt_tokens=np.array(numbers(prompt, "prompt length", name, least=1), np.int64),
            output_tokens=np.array(numbers(output, "output length", name, least=1), np.int64),
            user=extra["user"].astype(np.int64) if "user" in extra else None,  # type: ignore[arg-type]
            priority=extra.get("priority"),  # type: ignore[arg-type]
        )  # fmt: skip


READER = Plain()
