"""ZeRO-Infinity: weights and optimizer state in host memory and on drives, place by place."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np

from ...errors import DoesNotFit, InvalidPlan
from ..memory import memory_parts, total_bytes
from ..method import MethodReport, Setting, TrainingMethod
from ..offload import away_parts
from ..plan import OFFLOAD, Offload, Plans, Recipe, TrainingJob
from ..search import PlanSearch, search_plans
from ..space import SpaceLimits
from ..time import StepPricer
from ..utilization import step_flop

PLACES: tuple[tuple[Offload, Offload], ...] = (
    ("none", "none"), ("cpu", "none"), ("nvme", "none"), ("cpu", "cpu"), ("cpu", "nvme"),
    ("nvme", "cpu"), ("nvme", "nvme"),
)  # fmt: skip
"""Of optimizer state and of weights; nearest first."""
PUBLISHED_TFLOP_PER_S = 49.0
"""Per V100 at a trillion parameters on 512 of them, states on the CPU (DeepSpeed's announcement of
ZeRO-3 Offload, 2021; the paper's abstract: over 25 PFLOP/s, 40% of peak). Which FLOP are counted,
and the shapes, are not stated there."""
COLUMNS = (
    "places", "device_bytes", "host_bytes", "drive_bytes", "step_s", "optimizer_s",
    "exposed_s", "model_tflop", "hardware_tflop",
)  # fmt: skip


@final
class ZeroInfinity(TrainingMethod):
    """A model under ZeRO 3 with every layer recomputed, by where its states are kept.

    Places are of optimizer state and weights, each with its own quickest tensor degree and
    micro-batch (`plan`, in JSON). `exposed_s` is what traffic with host and drives adds to compute
    and gathering; where its state is away the optimizer runs on the CPU, after the backward pass.
    Rates count the model's own FLOP, and Megatron's formula with the recomputed forward pass, per
    device.

    References
    ----------
    Rajbhandari et al. 2021, ZeRO-Infinity: Breaking the GPU Memory Wall for Extreme Scale Deep
    Learning, arXiv 2104.07857.
    """

    title: ClassVar[str] = "weights and optimizer state in host memory and on drives"
    reference: ClassVar[str] = "ZeRO-Infinity, arXiv 2104.07857"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "batch": (8.0, "sequences of a step per device"),
    }

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        job = TrainingJob(
            model=setting.model, sequence_tokens=setting.sequence_tokens,
            global_batch=max(1, round(settings["batch"] * setting.count)),
        )  # fmt: skip
        records = [self._place(setting, job, *places) for places in PLACES]
        held = [r for r in records if r["step_s"] is not None]
        if not held:
            text = (
                "No place holds this model's states with one layer on the device; use more of it."
            )
        else:
            best = min(held, key=lambda r: r["step_s"])
            leanest = min(held, key=lambda r: r["device_bytes"])
            text = (
                f"Quickest with state '{best['state']}' and weights '{best['weights']}': "
                f"{best['model_tflop']:.0f} TFLOP/s a device, "
                f"{best['hardware_tflop']:.0f} with recomputation; '{leanest['state']}' and "
                f"'{leanest['weights']}' need least of the device, at "
                f"{leanest['model_tflop']:.0f}. Published: {PUBLISHED_TFLOP_PER_S:.0f} at a "
                "trillion parameters on 512 V100."
            )
        return MethodReport(
            title=f"{setting.model.name} on {setting.count} x {setting.device.name}, "
            f"{job.global_batch} sequences",
            columns=COLUMNS, records=records, conclusion=text,
        )  # fmt: skip

    @staticmethod
    def _place(setting: Setting, job: TrainingJob, state: Offload, weights: Offload
               ) -> dict[str, Any]:  # fmt: skip
        """The quickest plan with states in their places; without numbers where nothing fits."""
        recipe = Recipe(offload=state, offload_weights=weights, gradient_bytes=2.0)
        row: dict[str, Any] = dict.fromkeys(("plan", *COLUMNS))
        row |= {"places": f"{state}/{weights}", "state": state, "weights": weights}
        try:
            found = search_plans(
                job, recipe, setting.device, setting.count, setting.cluster, prune=False,
                limits=SpaceLimits(tensor=setting.network.node, pipeline=1, context=1,
                                   zero=(3,), recompute=("full",), node=1, mixes=False),
            )  # fmt: skip
        except (DoesNotFit, InvalidPlan):
            return row
        at = _first(found, weights)
        if at is None:
            return row
        plan = Plans.of([found.plans.at(at)])
        step = StepPricer(
            job=job, recipe=recipe, device=setting.device, cluster=setting.cluster
        ).price(plan)
        seconds = float(step.seconds[0])
        host, drives = (float(total_bytes(p)[0]) for p in away_parts(job, recipe, plan))
        rate = 1e-12 / seconds / setting.count
        return row | {
            "plan": found.plans.at(at).describe(),
            "device_bytes": float(total_bytes(memory_parts(job, recipe, plan))[0]),
            "host_bytes": host, "drive_bytes": drives, "step_s": seconds,
            "optimizer_s": float(step.parts["optimizer"][0]),
            "exposed_s": float(step.parts["offload"][0]), "model_tflop": step_flop(job) * rate,
            "hardware_tflop": step_flop(job, "megatron-2021") * rate,
        }  # fmt: skip


def _first(found: PlanSearch, weights: Offload) -> int | None:
    """The fastest plan whose weights are in one place."""
    mine = np.flatnonzero(found.plans.offload_weights == OFFLOAD.index(weights))
    return int(mine[0]) if len(mine) else None


METHOD = ZeroInfinity()
