"""TokenWeave: two halves of a batch, one computing while the other communicates."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from attrs import evolve, frozen

from ...cost.collectives import link_bytes, tier_for
from ...cost.features import Array, Batch
from ...cost.operators.base import CollectiveShape, Operator
from ...cost.power import compute_share, sustained_clock
from ...cost.step import StepModel
from ...cost.timing import linear
from ...errors import InvalidPlan
from ...hardware import Accelerator
from ..method import Method, MethodReport
from ..streams import Streams

TOKENS = (256, 512, 1024, 2048, 4096, 8192, 16384)
SPLITS = 17
"""Places tried for the split, from three to five eighths: whole waves are not exactly half."""
FUSED_FIXED_S = 15.3e-6
FUSED_LINK_SHARE = 0.69
FUSED_UNIT_SHARE = 0.22
"""A multimem all-reduce on eight H100: its fixed time, the share of the link it reaches at most,
and per compute unit that runs it. Fitted on the kernel times of the paper's artifact (figure 7,
microbenchmarks by payload and units), not on any step."""


@final
class TokenWeave(Method):
    """Step time with the tokens split in two and the all-reduce of one half hidden.

    Both sides use the in-switch all-reduce of symmetric memory; `library_s` is the step with the
    communication library's instead. Per layer, attention and feed-forward of one half run while
    the fused all-reduce and norm of the other occupy `units` compute units: products of a half are
    priced as products of their own, in waves over the units that are left while it lasts. The
    streams are simulated layer by layer, so what cannot hide (the last all-reduce, compute
    shorter than the other half's communication) shows. `no_network_s` is the same step with
    every all-reduce removed, norms kept. Work that waits for no communication draws more power:
    `clock` is what the board limit leaves of it while woven steps follow each other. Launches of
    the split step by the host are not priced: they bound the smallest sizes.

    Checked against the 15 steps of the artifact that are not microbenchmarks (three models, 1,024
    to 16,384 tokens, `--engine vllm`): median error 6% for the plain step, 5% without network, 7%
    for the woven one and 4% for the gain, at most 1.29 where 1.27 was measured; one constant gain,
    fitted on the same steps, would be as good (3.5%). The gain is predicted 4% too high on
    average, for two reasons. At 1,024 tokens and for Mixtral 8x22B until 2,048 (69 ms at both) the
    host's launches of twice as many kernels bound the woven step; the one host time per layer
    that was fitted elsewhere, vLLM 0.5's 0.76 ms, would make 121 ms of Llama 3.1 70B's 46 and is
    not used. From 8,192 tokens on the woven step beats the one without network by 1 to 4%,
    predicted 6%: kernels of one half wait for units that the other half's communication or
    product still holds, which streams that share a device instantly do not show.

    References
    ----------
    Gond et al. 2025, TokenWeave, arXiv 2505.11329, and its artifact.
    """

    title: ClassVar[str] = "two token halves, one computing while the other communicates"
    reference: ClassVar[str] = "TokenWeave, arXiv 2505.11329"
    example: ClassVar[str] = "llama-3.1-70b --on 8xh100-sxm --engine vllm"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "units": (8.0, "compute units the fused all-reduce and norm occupy"),
    }

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        if step.plan.tensor < 2:
            raise InvalidPlan("There is nothing to hide on one device: give a plan such as tp8.")
        units = step.device.compute.units
        if not settings["units"] < units:
            raise InvalidPlan(
                f"{settings['units']:g} of {units} compute units would be busy with communication, "
                "which leaves none: give fewer (--set units=8)."
            )
        tokens = np.array(TOKENS, float)
        fewer = evolve(step, device=with_units(step.device, 1.0 - settings["units"] / units))
        whole = _parts(step, tokens, 0.0, units)
        plain = whole.work_s + whole.norms_s + whole.network_s
        share = np.linspace(0.375, 0.625, SPLITS)[:, np.newaxis]
        first = np.round(tokens * share)
        halves = [
            (_parts(step, t, prior, settings["units"]), _parts(fewer, t, prior, settings["units"]))
            for t, prior in ((first, 0.0), (tokens - first, first))
        ]
        woven = _weave(halves, step.model.depth).min(axis=0)
        batch = Batch(prefill_sequences=1.0, prefill_tokens=tokens)
        plain, _ = _sustained(step, batch, plain)
        silent, _ = _sustained(step, batch, whole.work_s + whole.norms_s)
        woven, clock = _sustained(step, batch, woven)
        best = np.minimum(woven, plain)
        library = whole.work_s + whole.norms_s + whole.library_s
        records = [
            {"tokens": int(t), "library_s": float(lib), "plain_s": float(p),
             "network_share": float(1 - n / p), "no_network_s": float(n), "woven_s": float(w),
             "clock": float(c), "gain": float(p / w)}
            for t, lib, p, n, w, c in zip(tokens, library, plain, silent, best, clock)
        ]  # fmt: skip
        pays = [r["tokens"] for r in records if r["gain"] > 1.01]
        text = (
            f"It pays from {min(pays):,} tokens per step on, at most "
            f"{max(r['gain'] for r in records):.2f} times." if pays
            else "Splitting costs more than the communication it hides at every size."
        )  # fmt: skip
        return MethodReport(
            title=f"Prompt step on {step.plan.describe()}", records=records, conclusion=text,
            columns=("tokens", "library_s", "plain_s", "network_share", "no_network_s", "woven_s",
                     "clock", "gain"),
        )  # fmt: skip


@frozen(kw_only=True, eq=False)
class _Parts:
    """Seconds of a step over all layers, by what the two streams see."""

    attention_s: Array
    feed_forward_s: Array
    outside_s: Array
    norms_s: Array
    network_s: Array
    library_s: Array

    @property
    def work_s(self) -> Array:
        return self.attention_s + self.feed_forward_s + self.outside_s


def with_units(device: Accelerator, share: float) -> Accelerator:
    """The device with a share of its compute units: fewer places for tiles, lower rates."""
    rates = device.rates
    return evolve(
        device,
        compute=evolve(device.compute, units=max(1, round(device.compute.units * share))),
        rates=evolve(
            rates, dense_flop_per_s={k: v * share for k, v in rates.dense_flop_per_s.items()},
            vector_flop_per_s=rates.vector_flop_per_s * share,
        ),
    )  # fmt: skip


def _fused_s(step: StepModel, op: Operator, batch: Batch, units: float) -> Array:
    """Seconds of an operator's all-reduces as multimem kernels on `units` compute units."""
    shape = op.shape
    assert isinstance(shape, CollectiveShape)
    tier = tier_for(step.device, step.cluster, shape.ranks)
    reached = min(FUSED_LINK_SHARE, units * FUSED_UNIT_SHARE)
    moved = linear(op.sent, batch) * link_bytes("all_reduce", shape.ranks, tier.in_switch_reduction)
    start = FUSED_FIXED_S + tier.latency_s
    return op.count * (start + moved / (reached * tier.link_bytes_per_s))


def _parts(step: StepModel, tokens: Array, prior: Array | float, units: float) -> _Parts:
    """The step of `tokens` prompt tokens after `prior` others, under its engine's kernel scale."""
    batch = Batch(
        prefill_sequences=1.0, prefill_tokens=tokens, prefill_prior=np.broadcast_to(
            np.asarray(prior, float), tokens.shape),
    )  # fmt: skip
    engine = step.engine
    times = step.operator_s(batch) * engine.scale(step.device.family) * engine.prefill_scale
    reduces = [isinstance(op.shape, CollectiveShape) and op.shape.pattern == "all_reduce"
               for op in step.operators]  # fmt: skip
    fused = np.zeros(tokens.shape)
    for op, r in zip(step.operators, reduces):
        if r:
            fused = fused + _fused_s(step, op, batch, units)
    network = np.array(reduces)
    norms = np.array([op.part == "norms" for op in step.operators]) & ~network
    attention = np.array([op.part == "attention" for op in step.operators]) & ~network
    forward = np.array([op.part == "feed-forward" for op in step.operators]) & ~network
    outside = ~(network | norms | attention | forward)
    return _Parts(
        attention_s=times[attention].sum(axis=0), feed_forward_s=times[forward].sum(axis=0),
        outside_s=times[outside].sum(axis=0), norms_s=times[norms].sum(axis=0),
        network_s=fused, library_s=times[network].sum(axis=0),
    )  # fmt: skip


def _sustained(step: StepModel, batch: Batch, seconds: Array) -> tuple[Array, Array]:
    """Seconds of steps that follow each other within the board limit, and the clock they keep."""
    # The share bound by compute is of the kernels at work, whatever else the step waits for.
    share = compute_share(step, batch) * step.step_s(batch) / seconds
    clock = sustained_clock(step, batch, seconds, np.minimum(share, 1.0))
    return seconds * (1.0 - share + share / clock), clock


def _beside(alone: Array, fewer: Array, network: Array) -> Array:
    """Seconds of work that shares the device with communication for `network` seconds.

    Progress is 1 / fewer per second while it lasts and 1 / alone afterwards.
    """
    return np.where(network >= fewer, fewer, network + alone * (1.0 - network / fewer))


def _weave(halves: list[tuple[_Parts, _Parts]], layers: int) -> Array:
    """Seconds of the step with both halves on a compute and a communication stream."""
    streams = Streams()
    # Two all-reduces of every layer follow attention and feed-forward.
    reduce_s = [full.network_s / (2 * layers) for full, _ in halves]
    work = []
    for (full, fewer), other in zip(halves, reversed(reduce_s)):
        work.append(
            [
                _beside(a / layers, b / layers, other)
                for a, b in (
                    (full.attention_s, fewer.attention_s),
                    (full.feed_forward_s, fewer.feed_forward_s),
                )
            ]
        )
    waits: list[list[int]] = [[], []]
    for half, (full, _) in enumerate(halves):
        waits[half] = [streams.add("compute", f"embedding {half}", full.outside_s / 2.0)]
    for layer in range(layers):
        for part, name in enumerate(("attention", "feed-forward")):
            for half in (0, 1):
                label = f"{name} {layer} half {half}"
                done = streams.add("compute", label, work[half][part], waits[half])
                waits[half] = [streams.add("network", label, reduce_s[half], [done])]
    for half, (full, _) in enumerate(halves):
        streams.add("compute", f"head {half}", full.outside_s / 2.0, waits[half])
    return streams.total_s


METHOD = TokenWeave()
