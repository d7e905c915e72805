"""The replica with the fewest requests in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from ..router import Router
from ..running import Running
from ..traffic import Trace


@final
class LeastLoaded(Router):
    """Join the shortest queue: waiting and running requests together, the first on ties.

    Faster replicas drain sooner and so get more, which is what heterogeneous fleets need.
    """

    title: ClassVar[str] = "the replica with the fewest requests"

    def choose(self, replicas: Sequence[Running], trace: Trace, request: int) -> int:
        return min(range(len(replicas)), key=lambda j: replicas[j].outstanding)


ROUTER = LeastLoaded()
