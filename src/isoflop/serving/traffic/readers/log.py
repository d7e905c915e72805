"""An engine's benchmark log: JSONL with input_toks, output_toks and arrival_time per request."""

from __future__ import annotations

from typing import final

import numpy as np

from ....cost.features import Array
from ....errors import InvalidInput
from ..trace import Trace
from ._jsonl import Records, records


@final
class Log:
    """Reader of per-request benchmark logs; requests are put in order of arrival."""

    @staticmethod
    def knows(first_line: str) -> bool:
        return '"input_toks"' in first_line and '"arrival_time"' in first_line

    @staticmethod
    def read(lines: list[str], name: str) -> Trace:
        found = records(lines, ["arrival_time", "input_toks", "output_toks"], name)
        arrival = _arrivals(found)
        order = np.argsort(arrival, kind="stable")
        return Trace(
            name=name, arrival_s=(arrival - arrival[order[0]])[order],
            prompt_tokens=found.lengths("input_toks")[order],
            output_tokens=found.lengths("output_toks")[order],
        )  # fmt: skip

    @staticmethod
    def latencies(lines: list[str], name: str) -> np.ndarray:
        """End-to-end seconds per request, in the order of `read`.

        Raises
        ------
        InvalidInput
            If a request lacks `last_token_ts` or `queued_ts`, or does not end after it was queued.
        """
        found = records(lines, ["arrival_time", "queued_ts", "last_token_ts"], name)
        spent = []
        for number, r in enumerate(found.values, start=1):
            try:
                seconds = float(r["last_token_ts"]) - float(r["queued_ts"])
            except (TypeError, ValueError):
                seconds = np.nan
            if not 0.0 < seconds < np.inf:
                raise InvalidInput(
                    f"Request {number} of '{name}' is queued at {r['queued_ts']} and ends at "
                    f"{r['last_token_ts']}: both are seconds, the end later. Leave such requests "
                    "out."
                )
            spent.append(seconds)
        return np.array(spent)[np.argsort(_arrivals(found), kind="stable")]


def _arrivals(found: Records) -> Array:
    """Times of arrival, in the order of the file."""
    arrival = found.numbers("arrival_time")
    for line, at in zip(found.lines, arrival):
        if not np.isfinite(at):
            raise InvalidInput(f"Line {line} of '{found.name}' has no arrival time, but {at}.")
    return arrival


READER = Log()
