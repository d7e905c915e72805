"""A trace: who asks for how much, and when."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve, field, frozen

from ... import registry
from ...cost.features import Array
from ...errors import InvalidInput

READERS = "isoflop.serving.traffic.readers"
NO_UNITS = np.zeros(0, np.int64)


@frozen(kw_only=True, eq=False)
class Trace:
    """Requests in order of arrival.

    Attributes
    ----------
    name : str
    arrival_s : array of float
        Seconds from the start, not decreasing; infinity for a request that follows another.
    prompt_tokens, output_tokens : array of int
        At least 1 each.
    user : array of int
        Whose request it is, for fair policies; zeros when unknown.
    priority : array of float
        Smaller is served first by priority policies.
    predicted_output : array of float or None
        A prediction of the output length; None: the true one.
    follows : array of int or None
        Per request, the request whose end starts it, or -1.
    think_s : array of float or None
        Seconds from that end to this arrival.
    units : array of int
        Prefix units of all requests, one after another; equal numbers are equal prefixes.
    unit_offsets : array of int, shape (requests + 1,)
    unit_tokens : int
        Tokens of one unit; 0: the trace knows no prefixes.
    """

    name: str
    arrival_s: Array
    prompt_tokens: Array
    output_tokens: Array
    user: Array = field(default=None)
    priority: Array = field(default=None)
    predicted_output: Array | None = None
    follows: Array | None = None
    think_s: Array | None = None
    units: Array = field(default=NO_UNITS)
    unit_offsets: Array | None = None
    unit_tokens: int = 0

    def __attrs_post_init__(self) -> None:
        n = len(self.arrival_s)
        if n == 0:
            raise InvalidInput(f"The trace '{self.name}' has no requests.")
        for label, lengths in (("prompt", self.prompt_tokens), ("output", self.output_tokens)):
            if len(lengths) != n:
                raise InvalidInput(
                    f"The trace has {n} arrivals and {len(lengths)} {label} lengths."
                )
            if not np.all(lengths >= 1):
                worst = int(np.argmin(lengths))
                raise InvalidInput(
                    f"Request {worst + 1} of '{self.name}' has {lengths[worst]} {label} tokens; "
                    "every request needs at least 1."
                )
        if self.user is None:
            object.__setattr__(self, "user", np.zeros(n, np.int64))
        if self.priority is None:
            object.__setattr__(self, "priority", np.zeros(n))

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float:
        """From the first to the last known arrival."""
        known = self.arrival_s[np.isfinite(self.arrival_s)]
        return float(known[-1] - known[0])

    @property
    def requests_per_s(self) -> float:
        """Mean rate; infinity where all arrive at once."""
        return (len(self) - 1) / self.duration_s if self.duration_s > 0 else float("inf")

    def scaled(self, factor: float) -> Trace:
        """The same requests `factor` times as fast: the shape of the arrivals stays.

        Raises
        ------
        InvalidInput
            If the factor is not a positive number.
        """
        if not np.isfinite(factor) or factor <= 0:
            raise InvalidInput(f"A rate is scaled by a positive number, not {factor}.")
        return evolve(self, arrival_s=self.arrival_s / factor)

    def at_rate(self, requests_per_s: float) -> Trace:
        """The same requests at a mean rate."""
        return self.scaled(requests_per_s / self.requests_per_s)

    def head(self, requests: int) -> Trace:
        """The first `requests` requests."""
        return self.take(np.arange(min(requests, len(self))))

    @property
    def roots(self) -> Array:
        """Requests that follow none: first ones of clients and conversations, or all."""
        return np.arange(len(self)) if self.follows is None else np.nonzero(self.follows < 0)[0]

    @property
    def clients(self) -> int:
        """Clients of a closed loop, who all start at once; 0 where arrivals are given."""
        return len(self.roots) if self.follows is not None and self.duration_s == 0 else 0

    def chains(self, roots: Array) -> Trace:
        """Some clients or conversations whole: the given first requests and all that follow."""
        if self.follows is None:
            return self.take(roots)
        first = np.where(self.follows < 0, np.arange(len(self)), self.follows)
        while np.any(first != first[first]):
            first = first[first]
        index = np.nonzero(np.isin(first, roots))[0]
        place = np.full(len(self) + 1, -1)  # the last one is where -1 points
        place[index] = np.arange(len(index))
        part = evolve(self, follows=None, think_s=None).take(index)
        return evolve(
            part, follows=place[self.follows[index]],
            think_s=None if self.think_s is None else self.think_s[index],
        )  # fmt: skip

    def with_clients(self, clients: int) -> Trace:
        """A closed loop of so many clients, each with as many requests; lengths in turn.

        Raises
        ------
        InvalidInput
            If this is no closed loop, or there is no client.
        """
        if not self.clients or clients < 1:
            raise InvalidInput(f"{clients} clients of '{self.name}' make no closed loop.")
        index = np.arange(clients * math.ceil(len(self) / self.clients))
        pick = index % len(self)
        part = evolve(self, follows=None, think_s=None).take(pick)
        return evolve(
            part, name=f"{clients} clients", user=index % clients,
            arrival_s=np.where(index < clients, 0.0, np.inf),
            follows=np.where(index < clients, -1, index - clients),
            think_s=None if self.think_s is None else self.think_s[pick],
        )  # fmt: skip

    def take(self, index: Array) -> Trace:
        """Some of the requests, in the given order; follow-ups are not kept as such."""
        if self.follows is not None and len(index) < len(self):
            raise InvalidInput("A trace whose requests follow each other cannot be cut.")
        units, offsets = self.units, self.unit_offsets
        if offsets is not None:
            sizes = (offsets[1:] - offsets[:-1])[index]
            parts = [units[offsets[i] : offsets[i + 1]] for i in index]
            units = np.concatenate(parts) if parts else NO_UNITS
            offsets = np.concatenate([[0], np.cumsum(sizes)])
        return evolve(
            self, arrival_s=self.arrival_s[index], prompt_tokens=self.prompt_tokens[index],
            output_tokens=self.output_tokens[index], user=self.user[index],
            priority=self.priority[index], units=units, unit_offsets=offsets,
            predicted_output=None if self.predicted_output is None else
            self.predicted_output[index],
        )  # fmt: skip

    def infinite_cache_hit_ratio(self) -> float:
        """Share of prefix units seen in an earlier request: the hits of a cache without limit.

        Raises
        ------
        InvalidInput
            If the trace has no prefix units.
        """
        if self.unit_offsets is None:
            raise InvalidInput(f"The trace '{self.name}' does not say which prefixes are shared.")
        first = np.unique(self.units, return_index=True)[1]
        return 1.0 - len(first) / len(self.units)

    def rows(self) -> list[dict[str, Any]]:
        """What the trace looks like, as plain records."""
        out = []
        for label, v in (("prompt", self.prompt_tokens), ("output", self.output_tokens)):
            q = np.percentile(v, [50, 90, 99])
            out.append({"tokens": label, "mean": float(np.mean(v)), "p50": float(q[0]),
                        "p90": float(q[1]), "p99": float(q[2]), "max": int(np.max(v))})  # fmt: skip
        return out


LATEST_S = 1e10
"""Three hundred years: later times are in another unit, and would swallow their own fractions."""


def sort_check(
    arrival_s: Array, name: str, lines: Sequence[int], *, relative: bool = False
) -> None:  # fmt: skip
    """Raise, with the line, where arrivals are not numbers, negative, too late or not in order.

    `lines` are those of the arrivals. `relative`: they are times of day less the first, so a
    negative one is out of order.
    """
    for bad, what in (
        (~np.isfinite(arrival_s), "no arrival time"),
        ((arrival_s < 0) & (not relative), "a negative arrival time"),
        (arrival_s > LATEST_S, "an arrival after three hundred years: give seconds"),
        (np.concatenate([[False], np.diff(arrival_s) < 0]), "an arrival before the one above it"),
    ):  # fmt: skip
        if np.any(bad):
            raise InvalidInput(
                f"Line {lines[int(np.argmax(bad))]} of '{name}' has {what}. Arrivals must be "
                "numbers, not negative, and in order; sort the file by its time column."
            )


def read_trace(path: str | Path) -> Trace:
    """Read a trace in any known format, recognised by its first line; gzip is unpacked.

    Raises
    ------
    InvalidInput
        If the file cannot be read, no reader knows it, or a line is wrong (with its number).
    """
    lines = read_lines(path)
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise InvalidInput(f"The trace '{path}' is empty.")
    for name in registry.names(READERS):
        reader = registry.find(READERS, name, "READER", "trace format")
        if reader.knows(first):
            return reader.read(lines, Path(path).name)
    raise InvalidInput(
        f"The first line of '{path}' is not one of a known trace: an Azure CSV (TIMESTAMP, "
        "ContextTokens, GeneratedTokens), a Mooncake JSONL (timestamp, input_length, "
        "output_length, hash_ids), a plain CSV (arrival_s, prompt_tokens, output_tokens) or an "
        "engine's benchmark log (JSONL with input_toks, output_toks, arrival_time)."
    )


def read_lines(path: str | Path) -> list[str]:
    """Lines of a text file, without its byte-order mark; gzip is recognised and unpacked.

    Raises
    ------
    InvalidInput
        If it cannot be read or is no text.
    """
    try:
        raw = Path(path).read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise InvalidInput(f"The trace '{path}' is a broken gzip file.") from None
    except OSError as error:
        raise InvalidInput(f"The trace '{path}' cannot be read: {error.strerror}.") from None
    try:
        return raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InvalidInput(f"The trace '{path}' is not text.") from None
