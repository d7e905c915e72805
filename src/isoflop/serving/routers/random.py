"""A replica at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np

from ..router import Router
from ..running import Running
from ..traffic import Trace


@final
class Random(Router):
    """Uniform, with a fixed seed: splits a Poisson stream into independent Poisson streams."""

    title: ClassVar[str] = "a replica at random"
    watches: ClassVar[bool] = False

    def start(self, replicas: Sequence[Running], trace: Trace) -> None:
        rng = np.random.default_rng(self.stream)
        self._draws = rng.integers(0, len(replicas), len(trace))

    def choose(self, replicas: Sequence[Running], trace: Trace, request: int) -> int:
        return int(self._draws[request]) % len(replicas)  # some may be out


ROUTER = Random()
