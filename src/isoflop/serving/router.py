"""What a router is: it sends each request to one of several replicas."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from .. import registry
from ..cost.features import Array
from .following import run_following
from .running import Running
from .traffic import Trace

PACKAGE = "isoflop.serving.routers"


class Router(ABC):
    """A routing rule, one file each in `isoflop/serving/routers/` defining `ROUTER`.

    A rule sees the replicas as they are when the request arrives: it may read their state and
    must not change it.
    """

    title: ClassVar[str]
    watches: ClassVar[bool] = True
    """Whether the rule looks at the replicas; one that does not is run without stopping."""
    stream: int = 0
    """Which of several routers of one run this is."""

    @abstractmethod
    def choose(self, replicas: Sequence[Running], trace: Trace, request: int) -> int:
        """Index of the replica that gets `request` of `trace`."""

    def start(self, replicas: Sequence[Running], trace: Trace) -> None:
        """Forget earlier runs; called before the first request."""
        return

    def run(self, replicas: Sequence[Running], trace: Trace) -> tuple[list[Running], list[Array]]:
        """Route and simulate everything; the replicas and the requests each one got."""
        self.start(replicas, trace)
        if trace.follows is not None:
            return list(replicas), run_following(replicas, trace, self.choose)
        places: list[list[int]] = [[] for _ in replicas]
        if not self.watches:
            for i in range(len(trace)):
                places[self.choose(replicas, trace, i)].append(i)
            parts = [np.array(p, int) for p in places]
            for replica, part in zip(replicas, parts):
                if len(part):
                    replica.feed(trace.take(part))
                    replica.advance()
            return list(replicas), parts
        for i in range(len(trace)):
            now = float(trace.arrival_s[i])
            for replica in replicas:
                replica.advance(now)
            chosen = self.choose(replicas, trace, i)
            places[chosen].append(i)
            replicas[chosen].feed_one(trace, i)
        for replica in replicas:
            replica.advance()
        return list(replicas), [np.array(p, int) for p in places]


def find_router(name: str, stream: int = 0) -> Router:
    """A new router of the kind called `name`; `UnknownName` with suggestions otherwise.

    Routers of one run that draw at random do so independently on different streams.
    """
    found = copy.copy(registry.find(PACKAGE, name, "ROUTER", "router"))
    found.stream = stream
    return found


def router_names() -> tuple[str, ...]:
    """Names of every router."""
    return registry.names(PACKAGE)
