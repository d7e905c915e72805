"""The step model: one model, one plan, one device, one engine, any batch.

`StepModel` joins the matrix (exact FLOP and bytes), the timer (achieved seconds) and the engine
(host and fixed time). Everything above this file asks it and nothing below.
"""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np
from attrs import define, evolve, field

from ..hardware import Accelerator, Cluster
from ..models import ModelSpec
from ..plans import Plan
from ..provenance import Label
from .collectives import tier_for
from .engines import Engine, load_engine
from .features import Array, Batch
from .interval import Interval, step_interval
from .matrix import Peaks, StepMatrix, roofline_s
from .operators import Operator, forward_operators
from .operators.base import CollectiveShape
from .shared import Shared
from .timing import KernelTimer


@define(kw_only=True, slots=False, eq=False)
class StepModel:
    """Prices steps of one instance.

    Attributes
    ----------
    model : ModelSpec
    plan : Plan
    device : Accelerator
    cluster : Cluster or None
        Network tiers; None uses the device's own scale-up link.
    engine : Engine
        Host and fixed time.
    overlap : float
        Share of the shorter of communication and computation that runs beside the other, 0 to 1:
        0 is an engine that waits for every collective, 1 hides all it can.
    clock : float or None
        Share of the highest clock that the devices hold; None: a short run or a light load. See
        `power.settled`.
    shared : Shared or None
        Where plans of one search keep what they have in common.
    """

    model: ModelSpec
    plan: Plan
    device: Accelerator
    cluster: Cluster | None = None
    engine: Engine = field(factory=lambda: load_engine("default"))
    overlap: float = 0.0
    clock: float | None = None
    shared: Shared | None = None

    def at(self, clock: float | None) -> StepModel:
        """The same instance with its devices at a share of their clock."""
        other = evolve(self, clock=clock)
        known = {k: v for k, v in vars(self).items() if k in ("operators", "matrix", "peaks")}
        vars(other).update(known)
        return other

    @cached_property
    def operators(self) -> list[Operator]:
        """Operators of a forward pass on one rank."""
        made = forward_operators(self.model, self.plan)
        return made if self._common is None else self._common.one_each(made, self.plan.tensor)

    @property
    def _common(self) -> Shared | None:
        """`shared`, if it was made for this device: one evolved since prices by itself."""
        shared = self.shared
        return shared if shared and shared.holds_for(self.device, self.cluster) else None

    @cached_property
    def matrix(self) -> StepMatrix:
        """The compiled coefficients."""
        return StepMatrix.compile(self.operators)

    @cached_property
    def timer(self) -> KernelTimer:
        """Calibrated kernel times on this device."""
        padded = self.engine.padded_experts and self.plan.tensor != 8
        made = partial(
            KernelTimer, device=self.device, cluster=self.cluster, plan=self.plan,
            clock=self.clock, padded_experts=padded, shared=self._common,
        )  # fmt: skip
        if self._common is None:
            return made()
        return self._common.timer((self.plan.formats.kv, self.clock, padded), made)

    @cached_property
    def peaks(self) -> Peaks:
        """Rates at which the roofline holds."""
        device = self.device
        rates, links = [], []
        for op in self.operators:
            rates.append(
                device.rates.vector_flop_per_s
                if op.rate is None
                else device.matrix_rate(op.rate)[0]
            )
            ranks = op.shape.ranks if isinstance(op.shape, CollectiveShape) else 1
            links.append(tier_for(device, self.cluster, ranks).link_bytes_per_s)
        return Peaks(
            flop_per_s=np.array(rates),
            bandwidth_bytes_per_s=device.memory.bandwidth_bytes_per_s,
            link_bytes_per_s=np.array(links),
        )

    def operator_s(self, batch: Batch) -> Array:
        """Seconds by operator, repeat counts included; shape (operators, *batch.shape).

        Of each kernel's fixed time a captured graph saves the engine's share, where the step
        holds no prompt.
        """
        times = self.timer.stacked(self.operators, batch)
        fixed, counts = self._launches
        extra = (np.newaxis,) * len(batch.shape)
        replayed = np.broadcast_to(batch.prefill_sequences == 0, batch.shape)
        saved = self.engine.captured * fixed[(..., *extra)] * replayed
        return self._overlapped(counts[(..., *extra)] * np.maximum(times - saved, 0.5 * times))

    @cached_property
    def _launches(self) -> tuple[Array, Array]:
        """Fixed seconds of one launch of each operator, and its launches per step."""
        fixed = np.array([self.timer.fixed_s(op) for op in self.operators])
        return fixed, np.array([op.count for op in self.operators])

    def _overlapped(self, times: Array) -> Array:
        """Collectives shortened by what runs beside computation."""
        if not self.overlap:
            return times
        sent = np.array([isinstance(op.shape, CollectiveShape) for op in self.operators])
        network, work = times[sent].sum(axis=0), times[~sent].sum(axis=0)
        hidden = self.overlap * np.minimum(network, work)
        share = 1.0 - hidden / np.maximum(network, 1e-30)
        out = times.copy()
        out[sent] *= share
        return out

    @cached_property
    def launch_s(self) -> float:
        """Fixed seconds of all kernels of a decoding step, before any is saved."""
        return sum(op.count * self.timer.fixed_s(op) for op in self.operators)

    def overhead_s(self, batch: Batch) -> Array:
        """Engine time of a step that no operator explains."""
        sequences = batch.feature("sequences") * self.plan.data
        return self.engine.overhead_s(sequences, self.model.depth)

    def step_s(self, batch: Batch) -> Array:
        """Seconds of a step, shape batch.shape."""
        kernels = self.operator_s(batch).sum(axis=0)
        return self.engine.scale(self.device.family) * kernels + self.overhead_s(batch)

    def ideal_s(self, batch: Batch) -> Array:
        """Roofline of the step with every efficiency at 1: a lower bound."""
        parts = roofline_s(self.matrix, self.peaks, batch)
        return self._overlapped(np.maximum.reduce(list(parts.values()))).sum(axis=0)

    def decode_s(self, sequences: Array, context: Array) -> Array:
        """Seconds of one decoding step of `sequences` sequences over the whole instance."""
        local = np.asarray(sequences, float) / (self.plan.data * self.plan.pipeline)
        return self.step_s(Batch(decode_sequences=local, decode_context=context))

    def prefill_s(self, prompts: Array, tokens: Array) -> Array:
        """Seconds of one step that processes `prompts` whole prompts of `tokens` tokens."""
        local = np.asarray(prompts, float) / self.plan.data
        return self.step_s(Batch(prefill_sequences=local, prefill_tokens=tokens))

    def interval(self, batch: Batch) -> Interval:
        """90% interval and label of the step's time."""
        times = self.operator_s(batch)
        return step_interval(
            self.operators, times, self.overhead_s(batch), self.timer, self.engine,
            self.ideal_s(batch), self.engine.measured_on == self.setup,
        )  # fmt: skip

    @property
    def setup(self) -> str:
        """What an engine's own measurement holds for."""
        return f"{self.model.id} on {self.device.id}"

    def label(self) -> Label:
        """How the step's time was made."""
        return self.timer.label(self.operators)
