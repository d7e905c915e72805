"""An engine's benchmark log: JSONL with input_toks, output_toks and arrival_time per request."""

from __future__ import annotations

from typing import final

import numpy as np

from ..trace import Trace
from ._jsonl import lengths, records


@final
class Log:
    """Reader of per-request benchmark logs; requests are put in order of arrival."""

    @staticmethod
    def knows(first_line: str) -> bool:
        return '"input_toks"' in first_line and '"arrival_time"' in first_line

    @staticmethod
    def read(lines: list[str], name: str) -> Trace:
        found = records(lines, ["arrival_time", "input_toks", "output_toks"], name)
        arrival = np.array([float(r["arrival_time"]) for r in found])
        order = np.argsort(arrival, kind="stable")
        prompt = np.array(lengths([r["input_toks"] for r in found], "input_toks", name))
        output = np.array(lengths([r["output_toks"] for r in found], "output_toks", name))
        return Trace(
            name=name, arrival_s=(arrival - arrival.min())[order],
            prompt_tokens=prompt[order].astype(np.int64),
            output_tokens=output[order].astype(np.int64),
        )  # fmt: skip


READER = Log()
