"""Findings: single changes, each priced by the same engine and ranked by what it gains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from attrs import evolve, frozen

from ..cost.features import Batch
from ..cost.operators.base import CollectiveShape
from ..cost.step import StepModel
from ..errors import IsoflopError
from ..hardware import Accelerator
from ..plans import Formats, Plan

MIN_GAIN = 1.02
"""Smallest speed-up worth a line."""

Steps = Callable[[Any], Batch]


@frozen(kw_only=True)
class Finding:
    """One change and what it gains.

    Attributes
    ----------
    change : str
        What to do, in words.
    speedup : float
        Step time before over after, per device-second where devices are added.
    seconds : float
        Step time after.
    evidence : str
        The figures behind it.
    """

    change: str
    speedup: float
    seconds: float
    evidence: str

    def as_dict(self) -> dict[str, Any]:
        """Plain record."""
        return {
            "change": self.change,
            "speedup": self.speedup,
            "step_s": self.seconds,
            "evidence": self.evidence,
        }


def rank_findings(
    step: StepModel, steps: Steps, batch: int, context: int, most: int = 5
) -> tuple[Finding, ...]:
    """Every applicable change priced at `batch`, best first."""
    base = _seconds(step, steps, batch)
    found = []
    for change, other, evidence in _candidates(step, steps, batch, context):
        try:
            other.plan.check(other.model)
            seconds = _seconds(other, steps, batch)
        except IsoflopError:
            continue
        devices = other.plan.devices / step.plan.devices
        gain = base / seconds
        if gain >= MIN_GAIN:
            text = evidence
            if devices > 1:
                text += f", for {devices:g}x the devices ({gain / devices:.0%} efficient)"
            found.append(Finding(change=change, speedup=gain, seconds=seconds, evidence=text))
    return tuple(sorted(found, key=lambda f: -f.speedup)[:most])


def _seconds(step: StepModel, steps: Steps, batch: int) -> float:
    return float(step.step_s(steps(np.float64(batch) / (step.plan.data * step.plan.pipeline))))


def _with(step: StepModel, **changes: Any) -> StepModel:
    fields = {
        "model": step.model,
        "plan": step.plan,
        "device": step.device,
        "cluster": step.cluster,
        "engine": step.engine,
        "overlap": step.overlap,
    }
    return StepModel(**(fields | changes))


def _formats(step: StepModel, **changes: str) -> StepModel:
    formats: Formats = evolve(step.plan.formats, **changes)
    return _with(step, plan=evolve(step.plan, formats=formats))


def _candidates(
    step: StepModel, steps: Steps, batch: int, context: int
) -> list[tuple[str, StepModel, str]]:
    parts = _time_by_kind(step, steps, batch)
    rates = step.device.rates.dense_flop_per_s
    weights = step.plan.formats.of("weights")
    out: list[tuple[str, StepModel, str]] = []
    linear = f"linear layers are {parts['linear']:.0%} of the step"
    if weights.bits >= 16 and "fp8" in rates:
        out.append(
            (
                "fp8 weights",
                _formats(step, weights="fp8"),
                f"{linear}; half the bytes, twice the rate",
            )
        )
    if weights.bits > 4:
        if "fp4" in rates:
            out.append(
                (
                    "NVFP4 weights",
                    _formats(step, weights="nvfp4"),
                    f"{linear}; 4.5 bits per weight at {rates['fp4'] / 1e15:.3g} PFLOP/s",
                )
            )
        out.append(
            (
                "4-bit weights only (int4, groups of 128)",
                _formats(step, weights="int4-g128"),
                f"{linear}; 4.16 bits per weight, products still at 16 bits",
            )
        )
    if step.plan.formats.of("kv").bits >= 16 and parts["cache"] > 0.02:
        out.append(
            (
                "fp8 KV cache",
                _formats(step, kv="fp8"),
                f"attention over the cache is {parts['cache']:.0%} of the step at batch {batch}",
            )
        )
    degree = step.plan.tensor * 2
    if degree <= max(step.device.links.scale_up_domain, 1):
        plan: Plan = evolve(step.plan, tensor=degree)
        out.append(
            (
                f"tensor parallelism over {plan.devices} devices",
                _with(step, plan=plan),
                "each device reads half the weights and half the cache",
            )
        )
    out += _hardware(step)
    if parts["network"] > 0.05 and step.overlap < 1.0:
        out.append(
            (
                "all communication that can be beside computation",
                _with(step, overlap=1.0),
                f"collectives are {parts['network']:.0%} of the step; two halves of the batch in "
                "turn, each sending while the other computes",
            )
        )
    if parts["engine"] > 0.05:
        free = evolve(step.engine, step_s=0.0, sequence_s=0.0, layer_s=0.0)
        out.append(
            (
                "no host overhead (overlapped scheduling)",
                _with(step, engine=free),
                f"time no kernel explains is {parts['engine']:.0%} of the step",
            )
        )
    return out


def _hardware(step: StepModel) -> list[tuple[str, StepModel, str]]:
    """A quarter more of each resource: which one the step would notice."""
    d = step.device
    faster: Accelerator = evolve(
        d, memory=evolve(d.memory, bandwidth_bytes_per_s=1.25 * d.memory.bandwidth_bytes_per_s)
    )
    rates = {k: 1.25 * v for k, v in d.rates.dense_flop_per_s.items()}
    stronger: Accelerator = evolve(d, rates=evolve(d.rates, dense_flop_per_s=rates))
    return [
        ("a device with 25% more memory bandwidth", _with(step, device=faster), "all else equal"),
        ("a device with 25% more matrix rate", _with(step, device=stronger), "all else equal"),
    ]


def _time_by_kind(step: StepModel, steps: Steps, batch: int) -> dict[str, float]:
    """Shares of the step: linear layers, cache reads, collectives, engine."""
    b = steps(np.float64(batch) / (step.plan.data * step.plan.pipeline))
    times = step.operator_s(b) * step.engine.scale(step.device.family)
    total = float(step.step_s(b))
    kinds = np.array([op.kind for op in step.operators])
    linear = times[np.isin(kinds, ["gemm", "moe"])].sum()
    cache = times[np.isin(kinds, ["decode", "mla_decode"])].sum()
    sent = np.array([isinstance(op.shape, CollectiveShape) for op in step.operators])
    return {
        "linear": float(linear) / total,
        "cache": float(cache) / total,
        "network": float(times[sent].sum()) / total,
        "engine": float(step.overhead_s(b)) / total,
    }
