"""Predict every case of a measurement file: cases that share an instance are priced together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from attrs import evolve

from ..cost.engines import engine_of, load_engine
from ..cost.features import Batch
from ..cost.interval import Z90
from ..cost.memory import MemoryPolicy, cache_bytes, memory_use
from ..cost.power import Load, power_watts, settled, step_load
from ..cost.step import StepModel
from ..errors import IsoflopError
from ..hardware import Accelerator, load_accelerator
from ..plans import Plan
from ..serving.instance import InstanceTables
from ..serving.steady import ClosedRun, SteadyState, mean_context
from .case import Case, Prediction
from .names import checkpoint
from .open_loop import predict_open
from .training_predict import TrainingPredictor

SEQUENCE_METRICS = ("tpot_s", "ttft_s", "e2e_s", "output_tokens_per_s", "tokens_per_s_per_device")
MOST_SEQUENCES = 2048.0
"""Most sequences an engine schedules at once unless told otherwise."""
FREE_SHARE = 0.9
"""Share of free memory TensorRT-LLM's cache takes by default (kv_cache_free_gpu_mem_fraction)."""
METRIC_SIGMA = {
    "ttft_s": 0.5,
    "prefill_s": 0.15,
    "prefill_tokens_per_s_per_device": 0.2,
    "prefill_tokens_per_s_total": 0.2,
    "prompt_tokens_per_s": 0.15,
    "power_watts": 0.12,
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
    """A prediction, or a reason why not, for every case, in order.

    A case that may be of two runs is predicted halfway between them, in the logarithm, with an
    interval that holds both.
    """
    open_ = [i for i, c in enumerate(cases) if c.otherwise is not None and not c.reason]
    others = [evolve(cases[i], protocol=cases[i].otherwise) for i in open_]
    found = _predict([*cases, *others], progress)
    results = found[: len(cases)]
    for i, other in zip(open_, found[len(cases) :], strict=True):
        results[i] = _either(results[i], other)
    return results


def _either(a: Prediction, b: Prediction) -> Prediction:
    """One prediction for a case that is of one run or the other."""
    if a.predicted is None or b.predicted is None:
        return a if a.predicted is None else evolve(b, case=a.case)
    ends = [x for x in (a.low, a.high, b.low, b.high) if x is not None]
    middle = float(np.sqrt(a.predicted * b.predicted))
    return evolve(a, predicted=middle, low=min(ends), high=max(ends))


def _predict(cases: Sequence[Case], progress: Callable[[int], None] | None) -> list[Prediction]:
    """`predict_cases` of runs that are known."""
    results: list[Prediction | None] = [None] * len(cases)
    groups: dict[tuple, list[int]] = defaultdict(list)
    trainer = TrainingPredictor()
    for i, case in enumerate(cases):
        if case.reason:
            results[i] = Prediction(case=case, reason=case.reason)
        elif case.training is not None:
            results[i] = trainer.predict(case)
        else:
            engine = engine_of(case.engine, case.release)
            groups[case.model, case.device, engine, case.plan, case.protocol.drafts].append(i)
    for (model, device, engine, plan, _), members in groups.items():
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
        model=checkpoint(model),
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
        try:
            value = _alone(step, case)
        except IsoflopError as error:
            out[i] = Prediction(case=case, reason=str(error))
            continue
        if value is None:
            out[i] = Prediction(case=case, reason=f"no model of '{case.metric}' in this mode")
        else:
            sigma = 0.0 if case.mode == "capacity" else step.engine.sigma
            out[i] = _wrap(case, value, sigma, label)
    return [out[i] for i in range(len(cases))]


def _alone(step: StepModel, case: Case) -> float | None:
    """A case that is no steady state of decoding sequences."""
    prompt = max(case.prompt_tokens, 1.0)
    if case.mode == "single":
        return float(step.prefill_s(np.ones(()), np.array(prompt)))
    if case.mode == "capacity":
        return _capacity(step, case)
    if case.mode == "open":
        return predict_open(step, case)
    if case.mode == "pieces":
        piece = float(case.concurrency or prompt)
        batch = Batch(prefill_sequences=1.0, prefill_tokens=piece, prefill_prior=prompt / 2.0)
        return piece / float(step.step_s(batch))
    if case.mode == "prompts":
        # Prompts one after another: the clock settles at the board's power limit.
        step = settled(step, Batch(prefill_sequences=1.0, prefill_tokens=prompt))
        together = max(np.floor(step.engine.chunk_tokens / prompt), 1.0) * step.plan.data
        rate = together * prompt / float(step.prefill_s(np.array(together), np.array(prompt)))
        return rate / step.plan.devices * (case.replicas if "total" in case.metric else 1.0)
    return None


def _clients(step: StepModel, cases: Sequence[Case]) -> np.ndarray:
    """Sequences of each case that run at once: those asked for, as far as the cache holds them.

    A run at maximum load fills memory up to the engine's own limit.
    """
    # TensorRT-LLM gives its cache a share of what is free after loading, others of the whole.
    of_free = step.engine.id.endswith("trtllm")
    policy = MemoryPolicy(block_tokens=64, utilization=1.0 if of_free else 0.9)
    use = memory_use(
        step.model, step.plan, step.device, step.operators, sequences=0, context=0, policy=policy
    )
    free = (use.usable_bytes - use.total_bytes) * (FREE_SHARE if of_free else 1.0)
    contexts = {c.prompt_tokens + c.output_tokens / 2 for c in cases}
    each = {x: cache_bytes(step.model, step.plan, 1, x, 64) for x in contexts}
    # The plan's data ranks each hold their own share of the sequences.
    most = MOST_SEQUENCES * step.plan.data
    out = []
    for case in cases:
        own = each[case.prompt_tokens + case.output_tokens / 2]
        fit = free / own * step.plan.data if own else most
        asked = most if case.concurrency is None else case.concurrency
        out.append(max(1.0, min(asked, fit)) if case.running is None else case.running)
    return np.array(out, float)


def _sequences(
    step: StepModel, cases: list[Case], rows: list[int], mode: str, label: str
) -> dict[int, Prediction]:
    state, context = _states(step, cases, mode)
    sigma = _sigma(step, state, context)
    return {
        row: _wrap(case, _value(step, case, state, j, context[j]), sigma[j], label)
        for j, (row, case) in enumerate(zip(rows, cases, strict=True))
    }


def _states(step: StepModel, cases: Sequence[Case], mode: str) -> tuple[SteadyState, np.ndarray]:
    """Steady states of cases of one instance, and the mean context of their sequences."""
    clients = _clients(step, cases)
    prompt = np.maximum([c.prompt_tokens for c in cases], 1.0)
    output = np.maximum([c.output_tokens for c in cases], 1.0)
    spread = np.array([c.output_cv for c in cases])
    drafts = cases[0].protocol.drafts  # cases of a group share it
    tables = InstanceTables.build(step, clients, prompt, output, spread, drafts)
    state = tables.state(
        step.engine, clients, prompt, output, static=mode == "static", output_cv=spread,
        mixed=[c.mixed for c in cases], **run_of(cases),
    )  # fmt: skip
    return state, mean_context(prompt, output, spread)


def run_of(cases: Sequence[Case]) -> dict[str, Any]:
    """What the load generators of cases did, as the steady state takes it."""
    rounds, shortest, wait, gained, served = (
        np.array([getattr(c.protocol, k) for c in cases])
        for k in ("rounds", "shortest", "wait_steps", "tokens_per_step", "served")
    )
    run = ClosedRun(rounds=rounds, shortest=shortest)
    return {"wait_steps": wait, "tokens_per_step": gained, "served": served, "run": run}


def _value(step: StepModel, case: Case, state: SteadyState, j: int, context: float) -> float:
    if case.metric == "tpot_s":
        return float(state.tpot_s[j])
    if case.metric == "ttft_s":
        return float(state.ttft_s[j])
    if case.metric == "output_tokens_per_s":
        if case.running is not None:  # a stated running batch excludes requests still waiting
            return case.running / float(state.tpot_s[j])
        return float(state.output_tokens_per_s[j])
    if case.metric == "tokens_per_s_per_device":
        return float(state.output_tokens_per_s[j]) / step.plan.devices
    if case.metric == "e2e_s":
        return float(state.ttft_s[j] + (case.output_tokens - 1.0) * state.tpot_s[j])
    return float(_power(step, case, state, j, context))


def _power(step: StepModel, case: Case, state: SteadyState, j: int, context: float) -> np.ndarray:
    """Mean board power of one device in a steady state."""
    return power_watts(step.device, _load(step, case, state, j, context))


def _load(step: StepModel, case: Case, state: SteadyState, j: int, context: float) -> Load:
    """How busy the device is: decoding steps and the prompts between."""
    batch = Batch(decode_sequences=float(state.batch[j]), decode_context=context)
    load = step_load(step, batch, float(state.tpot_s[j]))
    # Every output token brings prompt/output tokens of prompt with it.
    prompts = 1.0 + case.prompt_tokens / max(case.output_tokens, 1.0)
    return evolve(load, compute=load.compute * prompts)


def serving_load(case: Case) -> tuple[Accelerator, Load]:
    """The device of one serving case and how busy it keeps it."""
    engine = engine_of(case.engine, case.release)
    step = _instance(case.model, case.device, engine, case.plan)
    state, context = _states(step, [case], case.mode)
    return step.device, _load(step, case, state, 0, float(context[0]))


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
