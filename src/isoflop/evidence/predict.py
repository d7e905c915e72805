"""Predict every case of a measurement file: cases that share an instance are priced together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np
from attrs import evolve

from ..cost.engines import load_engine
from ..cost.features import Batch
from ..cost.interval import Z90
from ..cost.memory import MemoryPolicy, cache_bytes, memory_use
from ..cost.power import power_watts
from ..cost.step import StepModel
from ..errors import IsoflopError
from ..hardware import load_accelerator
from ..models import load_model
from ..plans import Plan
from ..serving.instance import InstanceTables
from ..serving.steady import SteadyState
from .case import Case, Prediction
from .training_predict import TrainingPredictor

SEQUENCE_METRICS = ("tpot_s", "ttft_s", "output_tokens_per_s", "tokens_per_s_per_device")
MOST_SEQUENCES = 1024.0
"""Most sequences an engine schedules at once unless told otherwise."""
METRIC_SIGMA = {
    "ttft_s": 0.6,
    "prefill_s": 0.15,
    "power_watts": 0.2,
    "kv_cache_bytes": 0.05,
    "kv_tokens": 0.05,
    "output_tokens_per_s": 0.2,
    "tokens_per_s_per_device": 0.25,
}
"""Spread added for what a closed form leaves out: queueing in TTFT, unknown in-flight batches in
throughput, engine reserve in memory."""


def predict_cases(
    cases: Sequence[Case], progress: Callable[[int], None] | None = None
) -> list[Prediction]:
    """A prediction, or a reason why not, for every case, in order."""
    results: list[Prediction | None] = [None] * len(cases)
    groups: dict[tuple, list[int]] = defaultdict(list)
    trainer = TrainingPredictor()
    for i, case in enumerate(cases):
        if case.reason:
            results[i] = Prediction(case=case, reason=case.reason)
        elif case.training is not None:
            results[i] = trainer.predict(case)
        else:
            groups[case.model, case.device, case.engine, case.plan].append(i)
    for (model, device, engine, plan), members in groups.items():
        try:
            step = _instance(model, device, engine, plan)
            predicted = _group(step, [cases[i] for i in members])
        except IsoflopError as error:
            predicted = [Prediction(case=cases[i], reason=str(error)) for i in members]
        for i, prediction in zip(members, predicted, strict=True):
            results[i] = prediction
        if progress is not None:
            progress(len(members))
    return [r for r in results if r is not None]


@lru_cache(maxsize=4096)
def _instance(model: str, device: str, engine: str, plan: Plan) -> StepModel:
    return StepModel(
        model=load_model(model),
        plan=plan,
        device=load_accelerator(device),
        engine=load_engine(engine),
    )


def _group(step: StepModel, cases: Sequence[Case]) -> list[Prediction]:
    """Predictions of cases that share one instance."""
    out: dict[int, Prediction] = {}
    label = step.label()
    for mode in ("closed", "static"):
        rows = [
            i
            for i, c in enumerate(cases)
            if c.mode == mode and (c.metric in SEQUENCE_METRICS or c.metric == "power_watts")
        ]
        if rows:
            out |= _sequences(step, [cases[i] for i in rows], rows, mode, label)
    for i, case in enumerate(cases):
        if i in out:
            continue
        if case.mode == "single":
            value = float(step.prefill_s(np.ones(()), np.array(max(case.prompt_tokens, 1.0))))
            out[i] = _wrap(case, value, step.engine.sigma, label)
        elif case.mode == "capacity":
            out[i] = _wrap(case, _capacity(step, case), 0.0, label)
        else:
            out[i] = Prediction(case=case, reason=f"no model of '{case.metric}' in this mode")
    return [out[i] for i in range(len(cases))]


def _clients(step: StepModel, case: Case) -> float:
    """Sequences of a case that run at once: those asked for, as far as the cache holds them.

    A run at maximum load fills memory up to the engine's own limit.
    """
    asked = MOST_SEQUENCES * step.plan.data if case.concurrency is None else case.concurrency
    context = case.prompt_tokens + case.output_tokens
    policy = MemoryPolicy(block_tokens=64)
    use = memory_use(
        step.model, step.plan, step.device, step.operators, sequences=0, context=0, policy=policy
    )
    each = cache_bytes(step.model, step.plan, 1, context - case.output_tokens / 2, 64)
    fit = (use.usable_bytes - use.total_bytes) / each if each else MOST_SEQUENCES
    # The plan's data ranks each hold their own share of the sequences.
    return float(max(1.0, min(asked, fit * step.plan.data)))


def _sequences(
    step: StepModel, cases: list[Case], rows: list[int], mode: str, label: str
) -> dict[int, Prediction]:
    clients = np.array([_clients(step, c) for c in cases])
    running = np.array([c.running or 0.0 for c in cases])
    prompt = np.maximum([c.prompt_tokens for c in cases], 1.0)
    output = np.maximum([c.output_tokens for c in cases], 1.0)
    context = prompt + output / 2.0
    tables = InstanceTables.build(step, clients, prompt, output)
    state = tables.state(step.engine, clients, prompt, output, static=mode == "static")
    sigma = _sigma(step, state, context)
    return {
        row: _wrap(case, _value(step, case, state, j, running[j], context[j]), sigma[j], label)
        for j, (row, case) in enumerate(zip(rows, cases, strict=True))
    }


def _value(
    step: StepModel, case: Case, state: SteadyState, j: int, running: float, context: float
) -> float:
    if case.metric == "tpot_s":
        return float(state.tpot_s[j])
    if case.metric == "ttft_s":
        return float(state.ttft_s[j])
    if case.metric == "output_tokens_per_s":
        return float(state.output_tokens_per_s[j])
    if case.metric == "tokens_per_s_per_device":
        return float(state.output_tokens_per_s[j]) / step.plan.devices
    sequences = running or float(state.batch[j])
    batch = Batch(decode_sequences=sequences, decode_context=context)
    return float(step_power(step, batch))


def step_power(step: StepModel, batch: Batch) -> np.ndarray:
    """Board power of one device while it repeats a step."""
    seconds = step.step_s(batch)
    flop = step.matrix.total("flop", batch) / seconds / step.timer.shape.bf16_flop_per_s
    moved = step.matrix.total("read", batch) + step.matrix.total("written", batch)
    return power_watts(
        step.device, flop, moved / seconds / step.device.memory.bandwidth_bytes_per_s
    )


def _capacity(step: StepModel, case: Case) -> float:
    policy = MemoryPolicy(utilization=case.utilization, step_tokens=2048)
    use = memory_use(
        step.model, step.plan, step.device, step.operators, sequences=0, context=0, policy=policy
    )
    free = max(use.usable_bytes - use.total_bytes, 0.0)
    if case.metric == "kv_cache_bytes":
        return free
    return free / cache_bytes(step.model, step.plan, 1, 1.0)


def _sigma(step: StepModel, state: SteadyState, context: np.ndarray) -> np.ndarray:
    from ..cost.interval import step_sigma

    local = state.batch / (step.plan.data * step.plan.pipeline)
    batch = Batch(decode_sequences=local, decode_context=context)
    times = step.operator_s(batch)
    return step_sigma(step.operators, times, step.overhead_s(batch), step.timer, step.engine)


def _wrap(case: Case, value: float, sigma: float, label: str) -> Prediction:
    if not (np.isfinite(value) and value > 0):
        return Prediction(case=case, reason="the prediction is not a positive number")
    total = float(np.hypot(sigma, METRIC_SIGMA.get(case.metric, 0.0)))
    spread = float(np.exp(Z90 * total))
    return Prediction(
        case=case, predicted=value, low=value / spread, high=value * spread, label=label
    )


def with_role(cases: Iterable[Case], fitted: Callable[[Case], bool]) -> list[Case]:
    """Cases marked `fit` where `fitted` says so."""
    return [evolve(c, role="fit" if fitted(c) else "check") for c in cases]
