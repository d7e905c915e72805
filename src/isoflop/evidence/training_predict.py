"""Predictions of training measurements: time, rate, utilisation and memory of stated plans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..cost.interval import Z90
from ..errors import IsoflopError
from ..training.calibration import TrainingCalibration, load_training
from ..training.compute import ComputeTable
from ..training.memory import memory_parts, total_bytes, usable_bytes
from ..training.plan import Plans
from ..training.time import Pricing, StepPricer
from ..training.utilization import step_flop
from .case import Case, Prediction
from .training_rows import TrainingQuestion

MEMORY_SIGMA = 0.05
"""Spread of log(measured / predicted) of peak memory on the fitted rows."""
EXPERTS_SIGMA = 0.2
"""Spread on models with routed experts where none of the family was measured."""
UNMEASURED_SIGMA = 0.25
"""Spread on a device family without a calibration of its own."""


class TrainingPredictor:
    """Prices training questions, sharing kernel tables between rows of one model and device."""

    def __init__(self, calibrations: dict[str, TrainingCalibration] | None = None):
        self.calibrations = calibrations or {}
        self._tables: dict[tuple, ComputeTable] = {}
        self._ready: dict[int, tuple[TrainingQuestion, Pricing]] = {}

    def pricing(self, q: TrainingQuestion) -> Pricing:
        """The question's plans, ready to be priced under the family's calibration."""
        known = self._ready.get(id(q))
        if known is None:
            pricer = StepPricer(
                job=q.job,
                recipe=q.recipe,
                device=q.device,
                cluster=q.cluster,
                network=q.network,
            )
            key = (id(q.job.model), q.job.sequence_tokens, q.recipe, q.device.id)
            pricer.table = self._tables.setdefault(key, pricer.table)
            plans = Plans.of(q.plans)
            held = total_bytes(memory_parts(q.job, q.recipe, plans)) <= usable_bytes(q.device)
            # None fits where a row uses offload it does not state: then the leanest is meant.
            plans = plans.take(held) if held.any() else plans.take(slice(0, 1))
            # The question is kept, so that its id stays its own.
            known = self._ready[id(q)] = q, Pricing(pricer, plans)
        pricing = known[1]
        pricing.cal = self.calibrations.get(q.device.family, pricing.cal)
        return pricing

    def value(self, q: TrainingQuestion, metric: str) -> float:
        """The metric's value: of the fastest of the row's plans that fits, or of the first."""
        if metric == "training_memory_bytes":
            return float(total_bytes(memory_parts(q.job, q.recipe, Plans.of(q.plans)))[0])
        seconds = self.pricing(q).run().seconds
        step = float(np.min(seconds))
        if metric == "step_s":
            return step
        if metric == "training_tokens_per_s":
            return q.job.step_tokens / step
        rate = step_flop(q.job, q.convention) / next(iter(q.plans)).devices / step
        if metric == "flop_per_s_per_device":
            return rate
        peak = q.device.rates.dense_flop_per_s
        return rate / (peak.get("bf16") or peak["fp16"])

    def predict(self, case: Case) -> Prediction:
        """A prediction with its 90% interval, or the reason why there is none."""
        q = case.training
        assert isinstance(q, TrainingQuestion)
        try:
            value = self.value(q, case.metric)
        except IsoflopError as error:
            return Prediction(case=case, reason=str(error))
        calibration, own = load_training(q.device.family)
        sigma = calibration.sigma
        if any(g.ffn.kind == "moe" for g in q.job.model.layers):
            sigma = max(sigma, calibration.sigma_experts or EXPERTS_SIGMA)
        sigma = sigma if own else max(UNMEASURED_SIGMA, sigma)
        sigma = MEMORY_SIGMA if case.metric == "training_memory_bytes" else sigma
        spread = float(np.exp(Z90 * sigma))
        return Prediction(
            case=case, predicted=value, low=value / spread, high=value * spread,
            label="interpolated" if own else "analytic", naive=_at_peak(q, case.metric),
        )  # fmt: skip


def _at_peak(q: TrainingQuestion, metric: str) -> float:
    """The metric at the full 16-bit rate, which the baseline scales by one efficiency."""
    rates = q.device.rates.dense_flop_per_s
    peak = rates.get("bf16") or rates["fp16"]
    seconds = step_flop(q.job, "model") / next(iter(q.plans)).devices / peak
    if metric == "step_s":
        return seconds
    if metric == "training_tokens_per_s":
        return q.job.step_tokens / seconds
    return peak if metric == "flop_per_s_per_device" else 1.0


def predict_training(cases: Sequence[Case]) -> list[Prediction]:
    """A prediction for every case, in order."""
    predictor = TrainingPredictor()
    return [predictor.predict(c) for c in cases]
