"""A server: one instance of a model with its scheduler's limits, ready to be simulated."""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from attrs import define, field

from ..cost.memory import MemoryPolicy, cache_layers, memory_use, require_fit
from ..cost.step import StepModel
from ..errors import DoesNotFit, InvalidInput
from ..models import ModelSpec
from .loop.records import Limits
from .policy import Policy, find_policy
from .speculation import Speculation
from .steptimes import StepTimes

HUGE = 1 << 40
NO_PAGES = 1 << 20
"""Page of models that keep states only: longer than any sequence, so one page per sequence."""
STEP_TOKENS = 8192
"""Token budget of a step on large devices, vLLM's default for servers."""


def check_generates(model: ModelSpec) -> None:
    """Refuse a model that cannot be served because it generates nothing."""
    if model.kind == "encoder":
        raise InvalidInput(
            f"{model.name} is an encoder: it generates no tokens to serve. "
            "`isoflop explain MODEL --phase prefill` prices its batches."
        )


@define(kw_only=True, slots=False, eq=False)
class Server:
    """One engine instance.

    Attributes
    ----------
    step : StepModel
    policy : str
        Name of a scheduling policy.
    max_sequences : int
        Most running sequences (vLLM's max_num_seqs).
    max_tokens : int
        Token budget of a step (max_num_batched_tokens), per attention group.
    max_context : int
        Longest sequence, prompt and output; 0 for the model's own.
    block_tokens : int
        Tokens of a cache page.
    utilization : float
        Share of device memory the engine claims.
    cache_blocks : int
        Pages of the cache; 0 computes them from what memory is left.
    prefix_caching : bool
    host_cache_bytes : float
        Host memory per device that keeps prefix pages which the device drops; they come back over
        the host link instead of being computed again. 0: none.
    preemption : {"recompute", "swap"}
    speculation : Speculation or None
    share : int
        Instances on each device; see `serving.sharing`.
    """

    step: StepModel
    policy: str = "vllm"
    max_sequences: int = 256
    max_tokens: int = STEP_TOKENS
    max_context: int = 0
    block_tokens: int = 16
    utilization: float = 0.9
    cache_blocks: int = 0
    prefix_caching: bool = True
    host_cache_bytes: float = 0.0
    preemption: Literal["recompute", "swap"] = "recompute"
    speculation: Speculation | None = None
    share: int = 1
    scheduler: Policy = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.scheduler = find_policy(self.policy)
        check_generates(self.step.model)
        for name, label in (
            ("max_sequences", "number of sequences"), ("max_tokens", "token budget"),
            ("block_tokens", "page size"), ("share", "number of instances on a device"),
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise InvalidInput(f"The {label} is {getattr(self, name)}; it must be at least 1.")
        for name, label in (
            ("cache_blocks", "pages of the cache"),
            ("max_context", "longest length"),
        ):
            if getattr(self, name) < 0:
                raise InvalidInput(f"The {label}: {getattr(self, name)}. Give 1 or more, or 0 for "
                                   "the default.")  # fmt: skip
        if not 0.0 <= self.host_cache_bytes < np.inf:
            raise InvalidInput(
                f"Host memory for the cache is {self.host_cache_bytes} bytes; give 0 or more."
            )
        if not 0.0 < self.utilization <= 1.0:
            raise InvalidInput(
                f"The share of memory an engine claims lies in (0, 1], not {self.utilization}."
            )
        if self.scheduler.most_tokens:
            self.max_tokens = min(self.max_tokens, self.scheduler.most_tokens)
        most = self.max_tokens * self.step.plan.data // self.verified
        if self.scheduler.mixed and self.max_sequences > most:
            raise InvalidInput(
                f"{self.max_sequences} running sequences need a step of at least as many tokens "
                f"each, but the step's budget is {most} sequences. Raise the token budget or "
                "lower the number of sequences."
            )

    @property
    def verified(self) -> int:
        """Tokens a decoding sequence puts through the model in one step."""
        return self.speculation.verified if self.speculation else 1

    @property
    def longest(self) -> int:
        """Longest sequence in tokens."""
        return self.max_context or self.step.model.max_context

    @cached_property
    def memory(self) -> MemoryPolicy:
        """How the engine spends its share of the device."""
        return MemoryPolicy(
            utilization=self.utilization / self.share, block_tokens=self.block_tokens,
            step_tokens=min(self.max_tokens, STEP_TOKENS),
            reserve_bytes=MemoryPolicy().reserve_bytes / self.share,
        )  # fmt: skip

    @cached_property
    def token_bytes(self) -> float:
        """Cache bytes of a token on one rank, layers with a window aside."""
        layers = cache_layers(self.step.model, self.step.plan)
        return sum(c.layers * c.token_bytes for c in layers if not c.window)

    @cached_property
    def sequence_bytes(self) -> float:
        """Cache bytes of a sequence on one rank whatever its length: windows and states."""
        total = 0.0
        for c in cache_layers(self.step.model, self.step.plan):
            held = min(c.window, self.longest) * c.token_bytes if c.window else 0.0
            total += c.layers * (held + c.sequence_bytes)
        return total

    @cached_property
    def block_bytes(self) -> float:
        """Bytes of one page on one rank; of one sequence where only states are kept."""
        return self.block_tokens * self.token_bytes or self.sequence_bytes or 1.0

    @cached_property
    def blocks(self) -> int:
        """Pages of the cache over all attention groups.

        Raises
        ------
        DoesNotFit
            If the weights leave no room for one page.
        """
        if self.cache_blocks:
            return self.cache_blocks
        s = self.step
        use = memory_use(
            s.model, s.plan, s.device, s.operators, sequences=0, context=0, policy=self.memory
        )
        if self.share == 1:
            require_fit(s.model, s.device, use, s.plan)
        free = use.usable_bytes - use.total_bytes
        count = math.floor(free / self.block_bytes) * s.plan.data
        if count < 1:
            raise DoesNotFit(
                f"{self.share} instances of {s.model.name} on one {s.device.name} leave no room "
                "for a cache. Use fewer instances, or a narrower weight format.",
                needed_bytes=use.total_bytes + self.block_bytes, available_bytes=use.usable_bytes,
            )  # fmt: skip
        return count

    @property
    def sequence_blocks(self) -> int:
        """Pages a sequence takes besides those of its tokens."""
        return math.ceil(self.sequence_bytes / self.block_bytes) if self.token_bytes else 1

    @cached_property
    def times(self) -> StepTimes:
        """Tabulated step times."""
        chunk = self.max_tokens
        if not self.scheduler.chunked:
            chunk = max(chunk, min(self.longest, 32768))
        built = _tabulated(self.step, self.max_sequences, chunk, self.longest, self.speculation)
        if self.share > 1:
            from .sharing import shared

            return shared(built, self.share)
        return built

    def swap_s_per_block(self) -> float:
        """Seconds to move one page between device and host, all layers of one rank."""
        return self.block_bytes / self.step.device.links.host_bytes_per_s

    def limits(self, unit_tokens: int, ring: int) -> Limits:
        """Settings of the loop for a trace with prefix units of `unit_tokens` tokens."""
        p, gain = self.scheduler, self.times.tables.numbers[2]
        units = unit_tokens if self.prefix_caching and self.token_bytes else 0
        unit_blocks = max(1, units // self.block_tokens)
        kept = self.host_cache_bytes / (unit_blocks * self.block_bytes) if units else 0.0
        return Limits(
            sequences=self.max_sequences,
            tokens=self.max_tokens * self.step.plan.data if p.limited else HUGE,
            blocks=self.blocks, block_tokens=self.block_tokens if self.token_bytes else NO_PAGES,
            block_steps=max(1, round(self.block_tokens / gain)) if self.token_bytes else NO_PAGES,
            sequence_blocks=self.sequence_blocks if self.token_bytes else 0, unit_tokens=units,
            unit_blocks=unit_blocks, chunked=int(p.chunked),
            mixed=int(p.mixed), gang=int(p.gang), fair=int(p.fair),
            swap=int(self.preemption == "swap"), first_come=int(p.first_come), ring=ring,
            host_units=int(kept) * self.step.plan.data,
        )  # fmt: skip

    def check(self, prompt: np.ndarray, output: np.ndarray) -> None:
        """Raise, with the request, where one is longer than the model or the cache can hold."""
        total = prompt + output
        worst = int(np.argmax(total))
        if total[worst] > self.longest:
            raise InvalidInput(
                f"Request {worst + 1} has {prompt[worst]:,} prompt and {output[worst]:,} output "
                f"tokens; {self.step.model.name} serves at most {self.longest:,} in all. Cut the "
                "trace, or leave such requests out (--drop-long)."
            )
        held = (self.blocks - self.sequence_blocks) * self.block_tokens
        if self.token_bytes and total[worst] - 1 > held:
            raise InvalidInput(
                f"Request {worst + 1} needs a cache of {total[worst] - 1:,} tokens; this "
                f"configuration holds {max(held, 0):,} in all. Use more or larger devices, a "
                "narrower cache format (--kv fp8), or leave such requests out (--drop-long)."
            )


@lru_cache(maxsize=8)
def _tabulated(
    step: StepModel, sequences: int, chunk: int, longest: int, spec: Speculation | None
) -> StepTimes:
    """Tables of one step model; a search asks for the same ones of a plan and of its split."""
    return StepTimes.build(
        step, max_sequences=sequences, max_tokens=chunk, max_context=longest,
        tokens_per_step=spec.tokens_per_step if spec else 1.0,
        verified_tokens=spec.verified if spec else 1,
        draft_s=spec.draft_s(sequences, longest) if spec else 0.0,
    )  # fmt: skip
