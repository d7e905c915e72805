"""The Batching Configuration Advisor: the largest batch still worth its memory."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ...cost.memory import cache_bytes, memory_use
from ...cost.step import StepModel
from ..method import Method, MethodReport

BATCHES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@final
class BatchingAdvisor(Method):
    """Largest batch under a latency promise whose throughput still scales.

    Throughput(B) / (B x throughput(1)) falls once memory traffic per sequence dominates the step.
    The batch is the largest with time per token below the promise and that ratio above epsilon;
    the cache is sized for it, and the freed memory holds further instances.

    References
    ----------
    Recasens et al. 2025, Mind the Memory Gap, arXiv 2503.08311, section 5.
    """

    title: ClassVar[str] = "the largest batch still worth its memory, and what the rest can hold"
    reference: ClassVar[str] = "Mind the Memory Gap, arXiv 2503.08311"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "tpot": (0.05, "promise on the time per output token, s"),
        "epsilon": (0.1, "least share of linear scaling"),
        "context": (512.0, "mean cached tokens of a sequence"),
    }

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        b = np.array(BATCHES, float)
        seconds = step.decode_s(b, np.array(settings["context"]))
        rate = b / seconds
        scaling = rate / (b * rate[0])
        use = memory_use(step.model, step.plan, step.device, step.operators, sequences=0, context=0)
        room = use.usable_bytes - use.total_bytes
        each = cache_bytes(step.model, step.plan, 1, settings["context"], 16)
        fits = b * each <= room
        good = fits & (seconds <= settings["tpot"]) & (scaling >= settings["epsilon"])
        records = [
            {"batch": int(n), "step_s": float(s), "tokens_per_s": float(r), "scaling": float(x),
             "cache_bytes": float(n * each), "chosen": bool(n == b[good].max()) if good.any()
             else False}
            for n, s, r, x, f in zip(b, seconds, rate, scaling, fits) if f
        ]  # fmt: skip
        if not good.any():
            text = "No batch keeps the promise: relax tpot, or use more devices."
        else:
            best = float(b[good].max())
            cache = best * each
            instance = use.weights_bytes + use.activations_bytes + use.reserve_bytes + cache
            more = int(use.usable_bytes // instance)
            largest = float(b[fits].max())
            kept = rate[b == best][0] / rate[b == largest][0]
            text = (
                f"Batch {best:.0f} gives {kept:.0%} of the throughput of batch {largest:.0f} with "
                f"{cache / max(largest * each, 1e-9):.0%} of its cache; the device holds {more} "
                f"such instances (simulate them with --share {max(more, 1)})."
            )
        return MethodReport(
            title="Throughput by batch", columns=("batch", "step_s", "tokens_per_s", "scaling",
            "cache_bytes", "chosen"), records=records, conclusion=text,
        )  # fmt: skip


METHOD = BatchingAdvisor()
