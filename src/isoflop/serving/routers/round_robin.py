"""Each replica in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from ..router import Router
from ..running import Running
from ..traffic import Trace


@final
class RoundRobin(Router):
    """Request i goes to replica i modulo their number."""

    title: ClassVar[str] = "each replica in turn"
    watches: ClassVar[bool] = False

    def choose(self, replicas: Sequence[Running], trace: Trace, request: int) -> int:
        return request % len(replicas)


ROUTER = RoundRobin()
