"""The loop of a search: propose, run, remember, until enough has been tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import InvalidInput
from .searcher import Searcher
from .space import Space
from .trial import History, Objective


def tune(
    objective: Objective, space: Space, searcher: Searcher, *, trials: int = 40, seed: int = 0,
    log: Path | None = None, progress: Callable[[float], None] | None = None,
) -> History:  # fmt: skip
    """Search until `trials` configurations are in the history, those of the log included.

    Raises
    ------
    InvalidInput
        If no run of the first ten gives a loss.
    """
    history = History(space=space, log=log)
    history.resume()
    rng = np.random.default_rng(seed + len(history.trials))
    while len(history.trials) < trials:
        point = searcher.propose(history.trials, space, rng)
        history.evaluate(objective, space.config(point))
        if len(history.trials) == 10 and all(t.failed for t in history.trials):
            raise InvalidInput("None of the first ten runs gave a loss: check the command.")
        if progress is not None:
            progress(len(history.trials) / trials)
    return history
