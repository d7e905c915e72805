"""The replica that already holds the prompt's prefix, unless it is overloaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from ..router import Router
from ..running import Running
from ..traffic import Trace

WORTH_TOKENS = 512.0
"""Prompt tokens of reuse that outweigh one more request in the queue."""


@final
class PrefixAware(Router):
    """Longest cached prefix minus a charge per outstanding request.

    References
    ----------
    Qin et al. 2024, Mooncake, arXiv 2407.00079, algorithm 1 (cache-aware scheduling), with the
    queue's length in place of its estimated time.
    """

    title: ClassVar[str] = "the longest cached prefix, less a charge for load"

    def choose(self, replicas: Sequence[Running], trace: Trace, request: int) -> int:
        def score(j: int) -> float:
            hit = replicas[j].cached_prefix(trace, request)
            return -(hit - WORTH_TOKENS * replicas[j].outstanding)

        return min(range(len(replicas)), key=score)


ROUTER = PrefixAware()
