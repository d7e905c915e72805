"""How much of a pool to keep when filtering by quality."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ...units import show_count
from ..choice import Choice, MethodReport
from ..laws.mixed_quality import mixed_error

UNIT = 1e5
"""Samples in the law's unit."""


@final
class Filtering(Choice):
    """Error by how many quality buckets are kept, for training that sees a number of samples.

    The pool is cut into buckets of falling quality; utility and half-life run evenly from the best
    to the worst. Keeping few means repeating them until they wear out, so the best share grows with
    the budget. The utilities published with the paper are curves, not numbers: give those of your
    own buckets (fit `repeated-quality` on each).

    References
    ----------
    Goyal et al. 2024, Scaling Laws for Data Filtering, arXiv 2404.07177.
    """

    title: ClassVar[str] = "how much of a pool to keep when filtering by quality"
    reference: ClassVar[str] = "Scaling Laws for Data Filtering, arXiv 2404.07177"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "pool": (1.28e10, "samples in the whole pool"),
        "buckets": (10.0, "quality buckets of equal size"),
        "sample_flop": (3e10, "training FLOP of one sample"),
        "best_utility": (0.20, "exponent of the best bucket, fresh"),
        "worst_utility": (0.05, "exponent of the worst"),
        "best_half_life": (3.0, "passes that halve the best bucket's utility"),
        "worst_half_life": (3.0, "passes that halve the worst's"),
    }

    def run(self, budget_flop: float, settings: dict[str, float]) -> MethodReport:
        count = max(int(settings["buckets"]), 2)
        seen = budget_flop / settings["sample_flop"]
        b = -np.linspace(settings["best_utility"], settings["worst_utility"], count)
        tau = np.linspace(settings["best_half_life"], settings["worst_half_life"], count)
        records = []
        for kept in range(1, count + 1):
            size = settings["pool"] * kept / count
            error = mixed_error(
                np.ones(1), b[:kept, None], tau[:kept, None], np.zeros(1),
                np.array([size / UNIT]), np.array([seen / size]),
            )[0]  # fmt: skip
            records.append({"kept": kept / count, "samples": size, "epochs": seen / size,
                            "error": float(error)})  # fmt: skip
        best = min(records, key=lambda r: r["error"])
        every = records[-1]
        return MethodReport(
            title=f"{show_count(seen)} samples seen of a pool of {show_count(settings['pool'])}",
            columns=("kept", "samples", "epochs", "error"), records=records,
            conclusion=f"Keep the best {best['kept']:.0%}, {best['epochs']:.3g} passes: error "
            f"{best['error']:.4f} of one fresh unit's, against {every['error']:.4f} unfiltered.",
        )  # fmt: skip


CHOICE = Filtering()
