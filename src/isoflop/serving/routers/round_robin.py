"""Each replica in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from ..router import Router
from ..running import Running
from ..traffic import Trace


@final
class RoundRobin(Router):
    """The i-th request to arrive goes to replica i modulo their number."""

    title: ClassVar[str] = "each replica in turn"
    watches: ClassVar[bool] = False

    def start(self, replicas: Sequence[Running], trace: Trace) -> None:
        self._arrived = -1

    def choose(self, replicas: Sequence[Running], trace: Trace, request: int) -> int:
        self._arrived += 1
        return self._arrived % len(replicas)


ROUTER = RoundRobin()
