"""Test-time compute that replaces training compute."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


@final
class BoardGames(Law):
    """log10(test) = a log10(train) + b Elo + c at equal strength.

    AlphaZero on Hex; Elo relative to perfect play.

    References
    ----------
    Jones 2021, Scaling Scaling Laws with Board Games, arXiv 2104.03113, section 5.2.
    """

    name: ClassVar[str] = "board-games"
    title: ClassVar[str] = "test-time compute that replaces training compute"
    reference: ClassVar[str] = "Jones 2021, arXiv 2104.03113, table 3"
    inputs: ClassVar[tuple[str, ...]] = ("train_flop", "elo")
    output: ClassVar[str] = "log10_test_flop"
    signed: ClassVar[tuple[str, ...]] = ("elo", "log10_test_flop")
    log_residual: ClassVar[bool] = False
    delta: ClassVar[float] = 0.1
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="a", low=-5.0, high=0.0, meaning="trade of training for test compute"),
        Parameter(name="b", low=0.0, high=1.0, meaning="per Elo"),
        Parameter(name="c", low=-100.0, high=100.0, meaning="offset"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        a, b, c = (theta[..., i, None] for i in range(3))
        return a * np.log10(x["train_flop"]) + b * x["elo"] + c


LAW = BoardGames()
