"""Training compute or test compute for the same strength."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ..choice import Choice, MethodReport, law_of, predict

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
SAMPLES = (1, 4, 16, 64, 256)


@final
class TestTime(Choice):
    """What a tenfold of training saves at test time, and what repeated samples buy.

    The first rows hold strength fixed on the board-game law: training r times the budget changes
    the test compute of a decision by r^a. With a number of decisions to serve, total compute has
    an optimum where test compute is -1/a of training. The others are coverage of a public agent
    benchmark by samples, whose cost is proportional.

    References
    ----------
    Jones 2021, Scaling Scaling Laws with Board Games, arXiv 2104.03113; Brown et al. 2024, Large
    Language Monkeys, arXiv 2407.21787.
    """

    title: ClassVar[str] = "training compute or test compute for the same strength"
    reference: ClassVar[str] = "arXiv 2104.03113; arXiv 2407.21787"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "elo": (0.0, "strength relative to perfect play; 0 is perfect"),
        "decisions": (1e6, "decisions served over the model's life"),
    }

    def run(self, budget_flop: float, settings: dict[str, float]) -> MethodReport:
        _, law, theta = law_of("jones-2021")
        _, samples, theta_s = law_of("brown-2024-swebench")
        records = []
        for factor in FACTORS:
            train = budget_flop * factor
            test = 10.0 ** predict(law, theta, train_flop=train, elo=settings["elo"])
            records.append({
                "choice": f"train {factor:g}x", "train_flop": train, "test_flop": test,
                "total_flop": train + settings["decisions"] * test, "coverage": None,
            })  # fmt: skip
        records += [
            {"choice": f"{k} samples", "train_flop": None, "test_flop": None, "total_flop": None,
             "coverage": predict(samples, theta_s, samples=k)}
            for k in SAMPLES
        ]  # fmt: skip
        slope = float(np.log10(records[4]["test_flop"] / records[2]["test_flop"]))
        best = min(records[: len(FACTORS)], key=lambda r: r["total_flop"])
        return MethodReport(
            title=f"Around {budget_flop:.3g} FLOP of training",
            columns=("choice", "train_flop", "test_flop", "total_flop", "coverage"),
            records=records,
            conclusion=f"Ten times the training saves 10^{-slope:.2f} of test compute at equal "
            f"strength; for {settings['decisions']:.3g} decisions '{best['choice']}' is cheapest "
            "of these. Both laws come from their own tasks: take the slope, not the offset.",
        )  # fmt: skip


CHOICE = TestTime()
