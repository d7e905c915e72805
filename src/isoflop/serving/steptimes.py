"""Step times of one instance as dense tables: any mix of decoding and prompt chunks in O(1).

A step's time splits along what each operator depends on:

    t = base(tokens, rows) + decode attention(B, context) + sum of prompt attention(q, prior)

`base` is priced at both ends of every tile, so that tile and wave staircases stay; decode attention
at every batch and at context knots, linear in between, which is what lets a simulator sum
thousands of steps as one arithmetic series; prompt attention bilinearly in (chunk, prior).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from attrs import frozen

from ..cost.features import Array, Batch
from ..cost.operators import Operator
from ..cost.step import StepModel
from ..cost.table import knots

ATTENTION = ("decode", "mla_decode", "prefill", "mla_prefill")
CONTEXT_RATIO = 1.12
"""Spacing of the context knots; `StepTimes.error` reports what it costs."""
CHUNK_RATIO = 1.15
PRIOR_RATIO = 1.35


STRIDES = ((128, 1), (1024, 8), (2048, 16), (1 << 30, 64))
"""Up to how many tokens tiles are how many rows apart; see `token_knots`."""


def token_knots(most: int) -> Array:
    """Token counts 0 .. `most` at which everything but attention is priced.

    Tiles hold whole multiples of 16 rows, and large products take large tiles. So both ends of
    every tile are knots, between which the time grows with the bytes of the activations alone.
    """
    found = {0}
    low = 1
    for high, stride in STRIDES:
        for start in range(low, min(high, most) + 1, stride):
            found |= {start, min(start + stride - 1, most)}
        low = high + 1
    # Not np.unique, which imports NumPy's masked arrays: half the time of a small simulation.
    return np.array(sorted(found), float)


class Tables(NamedTuple):
    """The arrays that the event loop reads; seconds unless said.

    Attributes
    ----------
    decode : (max_sequences + 1,)
        Everything but attention in a step of B decoding sequences, engine overhead included.
    attention : (max_sequences + 1, contexts)
        Decode attention at the knots `context`.
    mixed : (max_tokens + 1,)
        Everything but attention and head in a step that holds prompts, by tokens per rank.
    aside : (max_sequences + 1,)
        What B decoding sequences add to a mixed step besides tokens and attention.
    head : (max_sequences + 1,)
        Output head and engine overhead by sampled rows.
    prompt : (chunks, priors)
        Attention of one chunk at the knots `chunk` and `prior`.
    numbers : (4,)
        Launch time counted once per further prompt; attention groups; tokens per step and
        sequence (speculation); verified tokens per sequence.
    """

    decode: Array
    attention: Array
    context: Array
    mixed: Array
    aside: Array
    head: Array
    prompt: Array
    chunk: Array
    prior: Array
    numbers: Array


@frozen(kw_only=True, eq=False)
class StepTimes:
    """Tabulated step times of one instance.

    Attributes
    ----------
    step : StepModel
        The full model.
    tables : Tables
    max_sequences, max_tokens : int
        Largest decoding batch, and most tokens of one rank in a step.
    """

    step: StepModel
    tables: Tables
    max_sequences: int
    max_tokens: int

    @classmethod
    def build(
        cls, step: StepModel, *, max_sequences: int, max_tokens: int, max_context: int,
        tokens_per_step: float = 1.0, verified_tokens: int = 1, draft_s: Array | float = 0.0,
    ) -> StepTimes:  # fmt: skip
        """Tabulate `step`.

        Parameters
        ----------
        max_sequences, max_tokens, max_context : int
            Ranges of the tables: decoding sequences of the instance, tokens of one step, cached
            tokens of one sequence.
        tokens_per_step, verified_tokens : float, int
            Speculative decoding: tokens a sequence gains per step, and tokens verified for it.
        draft_s : float or array (max_sequences + 1,)
            Seconds of drafting in front of each decoding step.
        """
        groups = _Groups.of(step)
        plan, engine = step.plan, step.engine
        scale = engine.scale(step.device.family)
        b = np.arange(max_sequences + 1, dtype=float)
        local = b / (plan.data * plan.pipeline) * verified_tokens
        rest, saved = groups.decode(step, local)
        ctx = np.concatenate([[0.0], knots(max_context, dense=8, ratio=CONTEXT_RATIO)])
        attention = groups.attention(step, b / (plan.data * plan.pipeline), ctx)
        rows = local if verified_tokens > 1 else b / (plan.data * plan.pipeline)
        overhead = engine.overhead_s(b, step.model.depth) + np.asarray(draft_s)
        head = groups.head(step, rows)
        tokens = np.arange(max_tokens + 1, dtype=float)
        mixed, aside = groups.mixed(step, tokens, local)
        q = np.concatenate([[0.0], knots(max_tokens, dense=8, ratio=CHUNK_RATIO)])
        prior = np.concatenate([[0.0], knots(max_context, dense=1, ratio=PRIOR_RATIO)])
        prompt = groups.prompt(step, q, prior)
        both = scale * engine.prefill_scale
        decode = scale * (rest + head) + overhead
        decode[0] = 0.0
        tables = Tables(
            decode=decode, attention=scale * attention, context=ctx,
            mixed=both * mixed, aside=scale * (aside + saved * (b > 0)),
            head=scale * head + overhead, prompt=both * prompt, chunk=q, prior=prior,
            numbers=np.array([both * groups.prompt_launch(step), float(plan.data),
                              tokens_per_step, float(verified_tokens)]),
        )  # fmt: skip
        return cls(step=step, tables=tables, max_sequences=max_sequences, max_tokens=max_tokens)

    def decode_s(self, sequences: int, context: float) -> float:
        """Seconds of one decoding step."""
        t = self.tables
        return float(t.decode[sequences] + np.interp(context, t.context, t.attention[sequences]))

    def error(self, points: int = 200, seed: int = 0) -> tuple[float, float]:
        """Largest relative difference from the full model: decoding steps, prompt steps."""
        rng = np.random.default_rng(seed)
        plan = self.step.plan
        b = rng.integers(1, self.max_sequences + 1, points)
        c = rng.uniform(16, self.tables.context[-1], points)
        full = self.step.decode_s(b.astype(float), c)
        mine = np.array([self.decode_s(int(i), float(x)) for i, x in zip(b, c)])
        q = np.round(np.exp(rng.uniform(np.log(16), np.log(self.max_tokens), points)))
        engine = self.step.engine
        batch = Batch(prefill_sequences=1.0, prefill_tokens=q)
        kernels = engine.scale(self.step.device.family) * engine.prefill_scale
        exact = kernels * self.step.operator_s(batch).sum(axis=0)
        exact = exact + engine.overhead_s(1.0, self.step.model.depth)
        from .kernel import plain

        loop = plain("times")
        ours = np.array([
            self.tables.mixed[int(x)] + self.tables.head[plan.pipeline * plan.data]
            + loop.prompt_s(self.tables, x, 0.0) for x in q
        ])  # fmt: skip
        return float(np.max(np.abs(mine / full - 1))), float(np.max(np.abs(ours / exact - 1)))


@frozen(kw_only=True, eq=False)
class _Groups:
    """Operators by what their time depends on."""

    attending: tuple[Operator, ...]
    prompting: tuple[Operator, ...]
    heads: tuple[Operator, ...]
    decoding: tuple[Operator, ...]
    shared: tuple[Operator, ...]

    @classmethod
    def of(cls, step: StepModel) -> _Groups:
        only = Batch(prefill_sequences=1.0, prefill_tokens=64.0)
        attending, prompting, heads, decoding, shared = [], [], [], [], []
        prompt_s = step.timer.stacked(step.operators, only)
        for op, seconds in zip(step.operators, prompt_s):
            if op.kind in ("decode", "mla_decode"):
                attending.append(op)
            elif op.kind in ("prefill", "mla_prefill"):
                prompting.append(op)
            elif op.part == "head":
                heads.append(op)
            elif float(seconds) == 0.0:
                decoding.append(op)
            else:
                shared.append(op)
        return cls(
            attending=tuple(attending), prompting=tuple(prompting), heads=tuple(heads),
            decoding=tuple(decoding), shared=tuple(shared),
        )  # fmt: skip

    def _sum(
        self, step: StepModel, ops: tuple[Operator, ...], batch: Batch, captured: float
    ) -> Array:
        total = np.zeros(batch.shape)
        for op, seconds in zip(ops, step.timer.stacked(ops, batch)):
            if captured:
                saved = captured * step.timer.fixed_s(op)
                seconds = np.maximum(seconds - saved, 0.5 * seconds)
            total = total + op.count * seconds
        return total

    def decode(self, step: StepModel, local: Array) -> tuple[Array, float]:
        """All but attention and head with a captured graph; what capture saves of attention."""
        batch = Batch(decode_sequences=local, decode_context=1.0)
        captured = step.engine.captured
        saved = sum(op.count * captured * step.timer.fixed_s(op) for op in self.attending)
        return self._sum(step, self.shared + self.decoding, batch, captured), float(saved)

    def attention(self, step: StepModel, local: Array, context: Array) -> Array:
        batch = Batch(decode_sequences=local[:, None], decode_context=context[None, :])
        return self._sum(step, self.attending, batch, step.engine.captured)

    def head(self, step: StepModel, rows: Array) -> Array:
        batch = Batch(decode_sequences=rows, decode_context=1.0)
        return self._sum(step, self.heads, batch, step.engine.captured)

    def mixed(self, step: StepModel, tokens: Array, local: Array) -> tuple[Array, Array]:
        """All but attention and head without capture: by tokens, and decode-only by sequences."""
        at = token_knots(len(tokens) - 1)
        batch = Batch(prefill_sequences=1.0, prefill_tokens=at, sampled_rows=np.zeros(()))
        decoding = Batch(decode_sequences=local, decode_context=1.0)
        mixed = np.interp(tokens, at, self._sum(step, self.shared, batch, 0.0))
        mixed[0] = 0.0
        return mixed, self._sum(step, self.decoding, decoding, 0.0)

    def prompt(self, step: StepModel, chunk: Array, prior: Array) -> Array:
        batch = Batch(
            prefill_sequences=1.0, prefill_tokens=chunk[:, None], prefill_prior=prior[None, :]
        )
        out = self._sum(step, self.prompting, batch, 0.0)
        out[0] = 0.0
        return out

    def prompt_launch(self, step: StepModel) -> float:
        """Time of the smallest chunk: mostly fixed, so counted once per step."""
        one = Batch(prefill_sequences=1.0, prefill_tokens=1.0)
        return float(self._sum(step, self.prompting, one, 0.0))
