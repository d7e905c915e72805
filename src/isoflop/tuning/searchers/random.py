"""Uniform random search, the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np

from ...cost.features import Array
from ..searcher import Searcher
from ..space import Space
from ..trial import Trial


@final
class Random(Searcher):
    """Independent points of the whole space."""

    title: ClassVar[str] = "independent random points"
    reference: ClassVar[str] = "Bergstra and Bengio 2012"

    def propose(self, trials: Sequence[Trial], space: Space, rng: np.random.Generator) -> Array:
        return rng.random(len(space))


SEARCHER = Random()
