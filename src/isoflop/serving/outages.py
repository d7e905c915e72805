"""Times in which instances take no requests: failures and drains."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from attrs import frozen

from ..errors import InvalidInput


@frozen(kw_only=True)
class Outage:
    """A time in which a replica takes no requests.

    Attributes
    ----------
    replica : int
        Counted from 0; of two pools the prefill instances come first.
    start_s, end_s : float
    kind : {"fail", "drain"}
        fail: what runs and waits there is lost and starts again elsewhere; the replica comes back
        with an empty cache. drain: what it has, it finishes.
    """

    replica: int
    start_s: float
    end_s: float
    kind: Literal["fail", "drain"]

    def __attrs_post_init__(self) -> None:
        if not (0.0 <= self.start_s < self.end_s < np.inf):
            raise InvalidInput(
                f"An outage from {self.start_s:g} s to {self.end_s:g} s is none: its end must be "
                "finite and after its start."
            )

    def covers(self, at: float) -> bool:
        """Whether the replica is out at a time."""
        return self.start_s <= at < self.end_s


_OUTAGE = re.compile(r"\s*([pd]?)(\d+)\s*@\s*([\d.]+)\s*s?\s*\+\s*([\d.]+)\s*s?\s*")


def parse_outages(
    text: str, kind: Literal["fail", "drain"], pools: tuple[int, int] | None = None
) -> list[Outage]:
    """`"0@60+120,2@300+30"`: replica 0 from second 60 for 120 s, replica 2 from 300 for 30.

    With `pools`, the numbers of prefill and decode instances, `p0` and `d1` count in a pool.
    """
    outages = []
    for part in filter(None, text.split(",")):
        match = _OUTAGE.fullmatch(part)
        if not match or match[3].count(".") > 1 or match[4].count(".") > 1:
            raise InvalidInput(
                f"'{part}' is not an outage. Write replica@start+seconds, such as 0@60+120; "
                "p0@60+120 and d1@60+120 name prefill and decode instances of --disaggregate."
            )
        replica = _numbered(match[1], int(match[2]), pools)
        start, length = float(match[3]), float(match[4])
        outages.append(Outage(replica=replica, start_s=start, end_s=start + length, kind=kind))
    return outages


def _numbered(pool: str, instance: int, pools: tuple[int, int] | None) -> int:
    """The number over both pools of an instance that is counted in its own."""
    if not pool:
        return instance
    if pools is None:
        raise InvalidInput(
            f"An outage names {pool}{instance}, an instance of one of two pools. Say how many "
            "prefill and decode instances there are (--disaggregate P:D), or leave the letter out."
        )
    count = pools[pool == "d"]
    if instance >= count:
        kind = "decode" if pool == "d" else "prefill"
        raise InvalidInput(
            f"An outage names {kind} instance {instance}, but there are {count}, counted from 0."
        )
    return instance + (pools[0] if pool == "d" else 0)


def check_outages(outages: Sequence[Outage], replicas: int) -> None:
    """Raise `InvalidInput` where an outage names no replica."""
    for o in outages:
        if o.replica >= replicas:
            raise InvalidInput(
                f"An outage names replica {o.replica}, but there are {replicas}, counted from 0."
            )


def outage_summary(
    outages: Sequence[Outage], replicas: int, first_s: float, last_s: float, *, rerouted: int,
    lost_tokens: float,
) -> dict[str, Any]:  # fmt: skip
    """What a report says of them: `available_share` is of the replicas' time in the run."""
    span = max(last_s - first_s, 1e-12)
    out = sum(max(0.0, min(o.end_s, last_s) - max(o.start_s, first_s)) for o in outages)
    return {
        "outages": len(outages), "rerouted_requests": rerouted, "lost_tokens": lost_tokens,
        "available_share": 1.0 - out / (span * replicas),
    }  # fmt: skip
