"""Kernel times of one instance, tabulated once, under any engine's overheads.

The expensive part of a steady state is the kernel model; engines only scale it and add fixed
times. Keeping the two apart prices thousands of scenarios, or an engine fit, in milliseconds.
"""

from __future__ import annotations

import numpy as np
from attrs import evolve, frozen
from numpy.typing import ArrayLike

from ..cost.engines import Engine
from ..cost.features import Array, Batch
from ..cost.step import StepModel
from ..cost.table import StepTable
from .steady import ClosedRun, SteadyState, closed_loop, mean_context, static_batch

BARE = Engine(id="bare", step_s=0.0, sequence_s=0.0, sigma=0.0, fitted_on="", source="estimate")
"""An engine that costs nothing."""

KNOT_RATIO = 1.35
"""Spacing of the sequence knots; steady states interpolate smooth totals, not single steps."""


@frozen(kw_only=True, eq=False)
class InstanceTables:
    """Kernel seconds of one instance over the scenarios asked for.

    Attributes
    ----------
    step : StepModel
        The instance; its own engine is not used here.
    decode : StepTable
        Decoding kernels by sequences and context.
    lengths, together : array
        Prompt lengths, and how many such prompts share a full chunk.
    alone_s, batched_s : array
        Kernel seconds of one prompt, and of a chunk full of them.
    """

    step: StepModel
    decode: StepTable
    lengths: Array
    together: Array
    alone_s: Array
    batched_s: Array

    @classmethod
    def build(
        cls,
        step: StepModel,
        clients: Array,
        prompt: Array,
        output: Array,
        output_cv: ArrayLike = 0.0,
        drafts: int = 0,
    ) -> InstanceTables:
        """Tabulate what scenarios with these clients and lengths need.

        `drafts` tokens per sequence are proposed by a layer of the model's own and verified in
        its next step.
        """
        bare = StepModel(
            model=step.model, plan=step.plan, device=step.device, cluster=step.cluster,
            engine=evolve(BARE, padded_experts=step.engine.padded_experts),
            clock=step.clock,
        )  # fmt: skip
        decode = StepTable.build(
            bare, max_sequences=float(np.max(clients)),
            context=mean_context(prompt, output, output_cv), ratio=KNOT_RATIO,
        )  # fmt: skip
        if drafts:
            decode = _verifying(bare, decode, drafts)
        lengths = np.unique(prompt)
        together = np.maximum(np.floor(step.engine.chunk_tokens / lengths), 1.0)
        # A data-parallel instance takes one prompt per attention rank.
        together = np.maximum(together, 1.0) * step.plan.data
        alone = bare.step_s(Batch(prefill_sequences=1.0, prefill_tokens=lengths))
        batched = bare.prefill_s(together, lengths)
        return cls(step=step, decode=decode, lengths=lengths, together=together, alone_s=alone,
                   batched_s=batched)  # fmt: skip

    def state(
        self, engine: Engine, clients: ArrayLike, prompt: ArrayLike, output: ArrayLike,
        *, static: bool = False, output_cv: ArrayLike = 0.0, mixed: ArrayLike = False,
        wait_steps: ArrayLike = 0.0, tokens_per_step: ArrayLike = 1.0, served: ArrayLike = True,
        run: ClosedRun | None = None,
    ) -> SteadyState:  # fmt: skip
        """Steady state of the scenarios under one engine's overheads.

        `served` is False where a benchmark calls the engine itself: no server then answers each
        sequence, and no request waits for one.
        """
        layers, scale = self.step.model.depth, engine.scale(self.step.device.family)
        index = np.searchsorted(self.lengths, np.asarray(prompt, float))
        answered = np.asarray(served, float)

        def decode_s(sequences: Array, context: Array) -> Array:
            kernels = self.decode.decode_s(sequences, context)
            kernels = np.maximum(kernels - engine.captured * self.step.launch_s, 0.5 * kernels)
            return scale * kernels + engine.overhead_s(sequences * answered, layers)

        def prefill_s(prompts: Array, tokens: Array) -> Array:
            count = np.maximum(prompts, 1.0)
            full = self.together[index]
            slope = (self.batched_s - self.alone_s)[index] / np.maximum(full - 1.0, 1.0)
            seconds = self.alone_s[index] + slope * (count - 1.0)
            return engine.prefill_scale * scale * seconds + engine.overhead_s(
                count * answered, layers
            )

        if static:
            return static_batch(
                decode_s, prefill_s, batch=clients, prompt_tokens=prompt, output_tokens=output
            )
        return closed_loop(
            decode_s, prefill_s, clients=clients, prompt_tokens=prompt, output_tokens=output,
            chunk_tokens=engine.chunk_tokens * self.step.plan.data,
            interference=engine.prefill_interference, arrival_s=engine.arrival_s * answered,
            stages=self.step.plan.pipeline,
            burst=engine.burst, output_cv=output_cv,
            prompt_floor_s=engine.prompt_layer_s * layers, mixed=mixed,
            lag_steps=engine.lag_steps + np.asarray(wait_steps, float),
            tokens_per_step=tokens_per_step, run=run,
        )  # fmt: skip


def _verifying(step: StepModel, plain: StepTable, drafts: int) -> StepTable:
    """Decoding steps that draft and verify `drafts` further tokens per sequence.

    Attention reads a sequence's cache once for all its tokens; every other kernel sees them as
    more tokens. A draft costs one layer and the output head, as a multi-token prediction module
    does (DeepSeek-V3, arXiv 2412.19437, section 2.2).
    """
    local = plain.sequences[:, None] / (step.plan.data * step.plan.pipeline)
    one, all_ = (
        step.operator_s(Batch(decode_sequences=local * n, decode_context=plain.context[None, :]))
        for n in (1.0, drafts + 1.0)
    )
    cached = np.array([op.kind in ("decode", "mla_decode") for op in step.operators])
    head = np.array([op.part == "head" for op in step.operators])
    verify = np.where(cached[:, None, None], one, all_).sum(axis=0)
    draft = one[~head].sum(axis=0) / step.model.depth + one[head].sum(axis=0)
    return StepTable(
        sequences=plain.sequences, context=plain.context, seconds=verify + drafts * draft
    )
