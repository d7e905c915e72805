"""MoE-Lens: offline batches through experts whose weights and cache are in host memory."""

from __future__ import annotations

import math
from typing import ClassVar, final

import numpy as np
from attrs import define, field, frozen

from ...cost.features import Array, Batch
from ...cost.memory import cache_layers
from ...cost.step import StepModel
from ...errors import InvalidInput
from ..method import Method, MethodReport
from ..offload import HostExperts
from ..streams import Streams

OUTPUTS = (32, 64, 128, 256, 512)
BLOCK = 16
"""Tokens of a page of the host's cache."""
MOST_PASSES = 100_000
AT_ONCE = 2000
"""Passes simulated as one array."""
MOST_TOKENS = 1 << 22
"""Largest pass that is priced."""


@final
class MoeLens(Method):
    """Throughput of weights streamed from host memory past a large batch, bound and pipeline.

    Every pass sends all weights of the layers once; the device multiplies, the host attends to the
    cache it holds. Bound: n tokens per pass keep the device as busy as the link from `saturation`
    on. A host cache of C tokens holds N = C / (p + g/2) sequences in steady state, prompts and
    decoding mixed, (p + g) / (p + g/2) times what reserving whole lengths would; a pass then has
    n = N (p + g) / g tokens, at most what saturates, and takes the longest of link, device and
    host attention. Pipeline: a scheduler decodes everything active, fills the pass with prompts up
    to saturation while pages are free, and when none are left sends the youngest sequences back,
    to be computed again; every pass runs layer by layer on three streams, in two groups so that
    the host attends for one while the device multiplies for the other, weights one layer ahead in
    two buffers. Start and end of the batch count, which a longer one amortises. `phases_per_s` is
    the same pipeline with prompts first and decoding after, whole lengths reserved.

    Checked for Mixtral 8x7B on an A40: 20,600 tokens saturate it, 19,200 by the paper's equation
    and 18,500 in its profile; a pass of the weights takes 4.8 s, about 5 there (6 under 210 GB of
    cache, by contention in the memory controller that is left out); 70 GB of cache keep the device
    76% busy at 32 output tokens, about 90% there; mixing holds 1.57 times the sequences at
    98 + 256, equal to the paper's. Its throughputs by workload were not at hand.

    References
    ----------
    Yuan et al. 2025, MoE-Lens, arXiv 2504.09345, sections 5 and 6.
    """

    title: ClassVar[str] = "offline batches with weights and cache in host memory"
    reference: ClassVar[str] = "MoE-Lens, arXiv 2504.09345"
    example: ClassVar[str] = "mixtral-8x7b --on a40"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "cache": (7.0e10, "bytes of host memory for keys and values"),
        "prompt": (98.0, "prompt tokens of a sequence"),
        "sequences": (20000.0, "sequences of the batch"),
        "host_bandwidth": (1.5e11, "bytes/s of the cache that host attention reads"),
        "link": (0.0, "reached bytes/s of the host link; 0: 61% of the catalog's"),
    }

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        machine = Machine.of(step, settings)
        records = [
            _row(machine, settings, output) for output in OUTPUTS
            if settings["prompt"] + output <= step.model.max_context
        ]  # fmt: skip
        last = records[-1]
        text = (
            f"{machine.saturation:,.0f} tokens per pass keep the device as busy as the link; a "
            f"pass of the weights takes {machine.pass_s:.2f} s. "
            f"{settings['cache'] / 1e9:.0f} GB of cache keep it {records[0]['device_busy']:.0%} "
            f"busy at {records[0]['output']} output tokens and {last['device_busy']:.0%} at "
            f"{last['output']}: "
            + ("host memory bounds the longer outputs." if last["device_busy"] < 0.8
               else "the device bounds all of them.")
        )  # fmt: skip
        return MethodReport(
            title=f"{step.model.name} from host memory, {settings['sequences']:,.0f} sequences",
            columns=("output", "pass_tokens", "bound_per_s", "pipeline_per_s", "of_bound",
                     "phases_per_s", "device_busy", "again"),
            records=records, conclusion=text,
        )  # fmt: skip


@frozen(kw_only=True, eq=False)
class Machine:
    """What a pass takes: link, device by tokens, host by cached tokens.

    Attributes
    ----------
    layer_s : float
        Seconds to send one layer's weights.
    knots, device_s : array
        Seconds of one layer's device work at numbers of tokens, attention of decoding left out.
    token_bytes : float
        Cache of one token over all layers.
    saturation : float
        Tokens at which the device takes as long as the link.
    """

    layers: int
    layer_s: float
    knots: Array
    device_s: Array
    token_bytes: float
    host_bytes_per_s: float
    saturation: float

    @classmethod
    def of(cls, step: StepModel, settings: dict[str, float]) -> Machine:
        place = HostExperts.of(
            step, link_bytes_per_s=settings["link"], host_bytes_per_s=settings["host_bandwidth"],
            host_flop_per_s=1.0,
        )  # fmt: skip
        layers = step.model.depth
        inside = sum(op.weight_bytes * op.count for op in step.operators
                     if op.part not in ("embedding", "head"))  # fmt: skip
        knots = np.unique(np.round(np.geomspace(1, MOST_TOKENS, 80)))
        prompt = np.minimum(knots, settings["prompt"])
        batch = Batch(prefill_sequences=knots / prompt, prefill_tokens=prompt)
        experts = place.experts * place.device_s(knots * place.per_token / place.experts)
        device = (place.other_s(batch) + experts) * place.layers / layers
        send = inside / layers / place.link_bytes_per_s
        return cls(
            layers=layers, layer_s=send, knots=knots, device_s=device,
            token_bytes=sum(g.layers * g.token_bytes for g in cache_layers(step.model, step.plan)),
            host_bytes_per_s=settings["host_bandwidth"],
            saturation=float(np.interp(send, device, knots)),
        )  # fmt: skip

    @property
    def pass_s(self) -> float:
        """Seconds to send all layers once."""
        return self.layers * self.layer_s

    def work_s(self, tokens: Array | float) -> Array:
        """Seconds of one layer on the device; nothing for no tokens."""
        some = np.asarray(tokens, float) > 0
        return np.where(some, np.interp(tokens, self.knots, self.device_s), 0.0)

    def attention_s(self, cached_tokens: Array | float) -> Array:
        """Seconds of one layer of host attention over so many cached tokens."""
        each = self.token_bytes / self.layers / self.host_bytes_per_s
        return np.asarray(cached_tokens, float) * each


def _row(machine: Machine, s: dict[str, float], output: int) -> dict[str, float]:
    """Bound and simulated pipeline at one output length."""
    prompt, room = s["prompt"], s["cache"] / machine.token_bytes
    if _pages(prompt + output) > room:
        raise InvalidInput(
            f"One sequence of {prompt:.0f} + {output} tokens needs "
            f"{_pages(prompt + output) * machine.token_bytes / 1e9:.2f} GB of cache; "
            f"{s['cache'] / 1e9:.2f} GB are given. Give more (--set cache=7e10)."
        )
    held = room / (prompt + output / 2.0)
    tokens = held * (prompt + output) / output
    share = min(1.0, machine.saturation / tokens)
    seconds = machine.layers * max(
        machine.layer_s, float(machine.work_s(tokens * share)),
        float(machine.attention_s(room * share)),
    )  # fmt: skip
    count = max(1, round(s["sequences"]))
    mixed, apart = (Scheduler.of(machine, prompt, output, count, room, together).run()
                    for together in (True, False))  # fmt: skip
    generated = count * output
    took, busy = _batch_s(machine, mixed)
    other, _ = _batch_s(machine, apart)
    return {
        "output": output, "held": held * share,
        "amplification": (prompt + output) / (prompt + output / 2.0),
        "pass_tokens": tokens * share, "bound_per_s": held * share / seconds,
        "pipeline_per_s": generated / took,
        "of_bound": generated / took / (held * share / seconds),
        "phases_per_s": generated / other,
        "device_busy": busy / took,
        "again": mixed.again,
    }  # fmt: skip


def _pages(tokens: float) -> float:
    return math.ceil(tokens / BLOCK) * BLOCK


@frozen(kw_only=True, eq=False)
class Passes:
    """Every pass: sequences that decode, prompt tokens, cached tokens read; sequences redone."""

    decoding: Array
    prompts: Array
    cached: Array
    again: int


@define(kw_only=True)
class Scheduler:
    """Sequences by how many tokens they have produced, and what still waits.

    Attributes
    ----------
    prompt, output : float, int
        Lengths of every sequence.
    room, most : float
        Tokens the cache holds, and tokens of a pass.
    mixed : bool
        Prompts beside decoding; otherwise a batch of prompts, whole lengths reserved, decodes to
        its end before the next.
    active : array
        Sequences by age, shape (output + 1,).
    redo : list of (count, age)
        Sequences sent back for want of pages, to be computed again.
    """

    prompt: float
    output: int
    room: float
    most: float
    mixed: bool
    waiting: int
    active: Array
    pages: Array
    redo: list[tuple[int, int]] = field(factory=list)
    again: int = 0

    @classmethod
    def of(
        cls, machine: Machine, prompt: float, output: int, sequences: int, room: float, mixed: bool
    ) -> Scheduler:
        """All sequences waiting."""
        ages = np.arange(output + 1)
        return cls(
            prompt=prompt, output=output, room=room, most=machine.saturation, mixed=mixed,
            waiting=sequences, active=np.zeros(output + 1),
            pages=np.ceil((prompt + ages) / BLOCK) * BLOCK,
        )  # fmt: skip

    def run(self) -> Passes:
        """Every pass until the last sequence ends."""
        rows: list[tuple[float, float, float]] = []
        while self.waiting or self.redo or self.active.any():
            rows.append(self._pass())
            if len(rows) > MOST_PASSES:
                raise InvalidInput(
                    f"The batch takes more than {MOST_PASSES:,} passes of the weights; give fewer "
                    "sequences (--set sequences=1000) or more cache (--set cache=7e10)."
                )
        table = np.array(rows)
        return Passes(decoding=table[:, 0], prompts=table[:, 1], cached=table[:, 2],
                       again=self.again)  # fmt: skip

    def _pass(self) -> tuple[float, float, float]:
        """One pass: sequences that decode, prompt tokens, cached tokens read."""
        self.active = np.append(0.0, self.active[:-1])
        if self.mixed:
            self._evict()
        decoding = float(self.active.sum())
        read = float((self.active * (self.prompt + np.arange(self.output + 1))).sum())
        self.active[self.output] = 0.0  # done: their pages are free
        prompts = 0.0
        if self.mixed or not decoding:
            prompts = self._readmit(self.most - decoding)
            prompts += self._admit(self.most - decoding - prompts, alone=not (decoding or prompts))
        return decoding, prompts, read

    @property
    def _free(self) -> float:
        return self.room - float((self.active * self.pages).sum())

    def _evict(self) -> None:
        """Send the youngest back until the pages suffice."""
        while self._free < 0:
            age = int(np.nonzero(self.active)[0][0])
            out = min(int(self.active[age]), math.ceil(-self._free / self.pages[age]))
            self.active[age] -= out
            self.redo.append((out, age - 1))
            self.again += out

    def _readmit(self, spare: float) -> float:
        """Compute sequences sent back again, as far as tokens and pages go; their tokens."""
        used = 0.0
        while self.redo:
            count, age = self.redo.pop()
            length = self.prompt + age
            fit = math.floor(min(count, (spare - used) / length, self._free / self.pages[age + 1]))
            if fit < 1 and not used and spare == self.most:
                fit = 1  # a pass of its own for one longer than saturates
            fit = max(0, fit)
            self.active[age] += fit
            used += fit * length
            if fit < count:
                self.redo.append((count - fit, age))
                break
        return used

    def _admit(self, spare: float, alone: bool) -> float:
        """Start waiting sequences; their tokens. Phases apart fill the cache in one long pass."""
        if self.redo or not self.waiting:
            return 0.0
        most = spare / self.prompt if self.mixed else math.inf
        reserve = self.pages[1] if self.mixed else self.pages[self.output]
        fit = math.floor(max(0.0, min(self.waiting, most, self._free / reserve)))
        fit = max(fit, 1) if alone else fit
        self.active[0] += fit
        self.waiting -= fit
        return fit * self.prompt


def _batch_s(machine: Machine, passes: Passes) -> tuple[float, float]:
    """Seconds of the whole batch, and of its device work."""
    took, busy = machine.layer_s, 0.0
    tokens = passes.decoding + passes.prompts
    for begin in range(0, len(tokens), AT_ONCE):
        rows = slice(begin, begin + AT_ONCE)
        took += float(_passes_s(machine, tokens[rows], passes.cached[rows]).sum())
        busy += float(machine.layers * machine.work_s(tokens[rows]).sum())
    return took, busy


def _passes_s(machine: Machine, tokens: Array, cached: Array) -> Array:
    """Seconds of every pass after one like it; shape (passes,).

    A stage joins what follows host attention in one layer with what precedes it in the next. Both
    groups, half of the tokens each, run it in turn, so that the host attends for one while the
    device computes the other. Weights of two stages have room: a stage's come once the stage
    before the last is done.
    """
    streams = Streams()
    work, attend = machine.work_s(tokens) / 2.0, machine.attention_s(cached) / 2.0
    attended: list[list[int]] = [[], []]
    ends: list[int] = []
    for stage in range(2 * machine.layers):
        weights = streams.add("link", f"weights {stage}", machine.layer_s, ends[-2:-1])
        done = weights
        for group in (0, 1):
            done = streams.add("device", f"stage {stage}.{group}", work,
                               [weights, *attended[group]])  # fmt: skip
            attended[group] = [streams.add("host", f"attention {stage}.{group}", attend, [done])]
        ends.append(done)
    one, two = (streams.tasks[ends[i * machine.layers - 1]].end_s for i in (1, 2))
    return two - one


METHOD = MoeLens()
