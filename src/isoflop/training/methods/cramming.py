"""Cramming: what one device can train in one day, by model size."""

from __future__ import annotations

from typing import Any, ClassVar, final

from attrs import evolve

from ..method import MethodReport, Setting, TrainingMethod
from ..plan import TrainingPlan

BYTES_PER_PARAMETER = 16.0
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)


@final
class Cramming(TrainingMethod):
    """Tokens of one device in a day for the asked-for architecture at other depths.

    The model is scaled in depth at its own width; the micro-batch is the largest power of two whose
    activations fit. Small models see more tokens and reach a smaller share of the rate: tokens per
    parameter near 20 mark the compute-optimal size (Hoffmann et al. 2022). The paper's finding is
    that in this regime throughput, not architecture, decides, so the table shows both.

    References
    ----------
    Geiping and Goldstein 2022, Cramming: Training a Language Model on a Single GPU in One Day,
    arXiv 2212.14034.
    """

    title: ClassVar[str] = "what one device trains in one day"
    reference: ClassVar[str] = "Cramming, arXiv 2212.14034"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "hours": (24.0, "time on the device"),
        "activation": (40.0, "bytes of activations per token, layer and hidden unit"),
    }

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        one = setting.alone()
        records: list[dict[str, Any]] = []
        seconds = settings["hours"] * 3600.0
        for scale in SCALES:
            model = one.model
            layers = tuple(evolve(g, count=max(1, round(g.count * scale))) for g in model.layers)
            sized = evolve(one, model=evolve(model, layers=layers, extra_parameters=0))
            n = float(sized.model.parameters)
            room = 0.9 * one.device.memory.capacity_bytes - BYTES_PER_PARAMETER * n
            each = settings["activation"] * one.sequence_tokens * model.hidden * sized.model.depth
            fit = int(room // each)
            if fit < 1:
                continue
            batch = 1 << (min(fit, 256).bit_length() - 1)
            timed = sized.step(TrainingPlan(micro_batch=batch), batch)
            step = float(timed.seconds[0])
            tokens = seconds / step * batch * one.sequence_tokens
            flop = float(timed.hardware_flop[0]) * seconds / step
            records.append({
                "layers": sized.model.depth, "parameters": int(n), "micro_batch": batch,
                "tokens_per_s": batch * one.sequence_tokens / step, "tokens": tokens,
                "tokens_per_parameter": tokens / n, "flop": flop,
                "share_of_peak": flop / seconds / one.peak_flop_per_s,
            })  # fmt: skip
        if not records:
            text = "No depth of this model fits the device for training; ask about a smaller one."
        else:
            best = min(records, key=lambda r: abs(r["tokens_per_parameter"] / 20.0 - 1.0))
            text = (
                f"In {settings['hours']:.0f} hours the size nearest 20 tokens per parameter has "
                f"{best['parameters'] / 1e6:,.0f}M parameters and sees "
                f"{best['tokens'] / 1e9:.2f}B tokens."
            )
        return MethodReport(
            title=f"One {one.device.name}, {settings['hours']:.0f} hours",
            columns=("layers", "parameters", "micro_batch", "tokens_per_s", "tokens",
                     "tokens_per_parameter", "share_of_peak"),
            records=records, conclusion=text,
        )  # fmt: skip


METHOD = Cramming()
