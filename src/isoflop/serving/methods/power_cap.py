"""POLCA: more servers on one power budget, and what capping clocks costs."""

from __future__ import annotations

from statistics import NormalDist
from typing import ClassVar, final

import numpy as np

from ...cost.features import Batch
from ...cost.power import at_clock, compute_share, power_watts, step_load
from ...cost.step import StepModel
from ...errors import InvalidInput
from ..method import Method, MethodReport

CLOCKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


@final
class PowerCap(Method):
    """Servers that fit a row provisioned for `servers` boards at their limit.

    A device draws much while it computes prompts and less while it decodes. Independent servers
    rarely peak together: with mean m and deviation s of one server, n servers stay below the
    budget with probability p while n m + z(p) s sqrt(n) does. Lower clocks cut the peaks; decoding
    is bound by memory and hardly notices, prompts slow down in proportion.

    References
    ----------
    Patel et al. 2023, POLCA: Power Oversubscription in LLM Cloud Providers, arXiv 2308.12908.
    """

    title: ClassVar[str] = "more servers on one power budget, and what capping clocks costs"
    reference: ClassVar[str] = "POLCA, arXiv 2308.12908"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "servers": (40.0, "servers the row is provisioned for, at board power"),
        "prompt_share": (0.2, "share of busy time on prompts"),
        "busy": (0.8, "share of time a server is busy"),
        "batch": (32.0, "decoding sequences"),
        "prompt": (1024.0, "prompt tokens"),
        "certainty": (0.999, "chance that the row stays below its budget"),
    }

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        if settings["prompt_share"] > 1 or settings["busy"] > 1 or settings["certainty"] >= 1:
            raise InvalidInput("Shares are at most 1 and the certainty is below 1.")
        device = step.device
        decode = Batch(decode_sequences=settings["batch"], decode_context=settings["prompt"])
        prompt = Batch(prefill_sequences=1.0, prefill_tokens=settings["prompt"])
        budget = settings["servers"] * device.power.board_watts
        z = NormalDist().inv_cdf(settings["certainty"])
        share, busy = settings["prompt_share"], settings["busy"]
        records = []
        for clock in CLOCKS:
            high = _watts(step, prompt, clock)
            low = _watts(step, decode, clock)
            levels = np.array([high, low, device.power.idle_watts])
            odds = np.array([busy * share, busy * (1 - share), 1 - busy])
            mean = float(levels @ odds)
            deviation = float(np.sqrt(((levels - mean) ** 2) @ odds))
            root = (-z * deviation + np.sqrt((z * deviation) ** 2 + 4 * mean * budget)) / (2 * mean)
            records.append({
                "clock": clock, "prompt_watts": high, "decode_watts": low,
                "servers": int(root**2), "more": int(root**2) / settings["servers"] - 1.0,
                "prompt_slowdown": _slower(step, prompt, clock),
                "decode_slowdown": _slower(step, decode, clock),
            })  # fmt: skip
        first, last = records[0], records[-1]
        text = (
            f"At full clocks {first['servers']} servers fit the budget of "
            f"{settings['servers']:.0f} ({first['more']:+.0%}) with {settings['certainty']:.1%} "
            f"certainty; at {last['clock']:.0%} of the clock {last['servers']}, where prompts take "
            f"{last['prompt_slowdown']:.2f} times as long and decoding "
            f"{last['decode_slowdown']:.2f} times."
        )
        return MethodReport(
            title=f"A row provisioned for {settings['servers']:.0f} devices", columns=("clock",
            "prompt_watts", "decode_watts", "servers", "more", "prompt_slowdown",
            "decode_slowdown"), records=records, conclusion=text,
        )  # fmt: skip


def _slower(step: StepModel, batch: Batch, clock: float) -> float:
    share = float(compute_share(step, batch))
    return 1.0 - share + share / clock


def _watts(step: StepModel, batch: Batch, clock: float) -> float:
    """Board power of a step at a share of the clock."""
    seconds = float(step.step_s(batch)) * _slower(step, batch, clock)
    load = at_clock(step_load(step, batch, seconds), clock)
    return float(power_watts(step.device, load))


METHOD = PowerCap()
