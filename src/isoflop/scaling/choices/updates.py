"""How many updates per sample in value-based reinforcement learning."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ...units import show_count
from ..choice import Choice, MethodReport, law_of, predict

RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


@final
class Updates(Choice):
    """Samples and compute to reach a return, by updates per sample (UTD).

    D(s) samples and s D(s) updates lead to the return: more updates per sample save samples and
    cost compute, along a frontier. The choice is the point of least total cost, where a sample is
    worth `sample_flop` of compute, among those whose compute the budget covers; with samples worth
    nothing it is the fewest samples that the budget reaches. Batch size and learning rate must fall
    with s, as power laws of their own (the paper, section 4).

    References
    ----------
    Rybkin et al. 2025, Value-Based Deep RL Scales Predictably, arXiv 2502.04327, section 5.
    """

    title: ClassVar[str] = "how many updates per sample in value-based RL"
    reference: ClassVar[str] = "Value-Based Deep RL Scales Predictably, arXiv 2502.04327"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "dmc": (0.0, "1: DeepMind Control at return 800; 0: OpenAI Gym"),
        "update_flop": (1e9, "FLOP of an update: 6 x parameters x batch, over all networks"),
        "sample_flop": (0.0, "FLOP that one environment sample is worth"),
    }

    def run(self, budget_flop: float, settings: dict[str, float]) -> MethodReport:
        _, law, theta = law_of("rybkin-2025-dmc" if settings["dmc"] else "rybkin-2025-gym")

        def record(ratio: float) -> dict[str, float]:
            samples = predict(law, theta, utd=ratio)
            flop = ratio * samples * settings["update_flop"]
            return {"utd": ratio, "samples": samples, "updates": ratio * samples, "flop": flop,
                    "total_flop": flop + samples * settings["sample_flop"]}  # fmt: skip

        records = [record(r) for r in RATIOS]
        fine = [record(r) for r in np.geomspace(RATIOS[0], RATIOS[-1], 241)]
        within = [r for r in fine if r["flop"] <= budget_flop]
        if not within:
            least = min(fine, key=lambda r: r["flop"])
            text = (
                "The budget does not reach the return: the least compute is "
                f"{least['flop']:.3g} FLOP, at {least['utd']:.2g} updates per sample."
            )
        else:
            key = "total_flop" if settings["sample_flop"] else "samples"
            best, one = min(within, key=lambda r: r[key]), record(1.0)
            text = (
                f"{best['utd']:.2g} updates per sample: {show_count(best['samples'])} samples and "
                f"{best['flop']:.3g} FLOP, where one update per sample takes "
                f"{show_count(one['samples'])} and {one['flop']:.3g}."
            )
        return MethodReport(
            title=f"Updates per sample within {budget_flop:.3g} FLOP",
            columns=("utd", "samples", "updates", "flop", "total_flop"), records=records,
            conclusion=text,
        )  # fmt: skip


CHOICE = Updates()
