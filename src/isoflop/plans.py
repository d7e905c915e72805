"""Plans: how one copy of a model is laid over devices, and in which number formats.

A plan describes one instance. Replicas of the instance are the fleet's business, not the plan's.
"""

from __future__ import annotations

import re
from typing import Literal

from attrs import evolve, frozen

from .errors import InvalidPlan
from .formats import NumberFormat, load_format
from .models import ModelSpec

Phase = Literal["decode", "prefill", "train"]


@frozen(kw_only=True)
class Formats:
    """Number formats by role, as catalog names.

    Attributes
    ----------
    weights : str
        Dense linear layers.
    experts : str
        Routed experts; empty for the same as `weights`.
    head : str
        Token embedding and output head.
    activations : str
        What flows between kernels.
    kv : str
        The cache.
    """

    weights: str = "bf16"
    experts: str = ""
    head: str = "bf16"
    activations: str = "bf16"
    kv: str = "bf16"

    def of(self, role: Literal["weights", "experts", "head", "activations", "kv"]) -> NumberFormat:
        """The catalog entry of one role."""
        return load_format(getattr(self, role) or self.weights)

    @property
    def stored(self) -> str:
        """The weights' formats in words: `bf16`, or `bf16 (experts mxfp4)`."""
        apart = self.experts and self.experts != self.weights
        return f"{self.weights} (experts {self.experts})" if apart else self.weights

    @classmethod
    def for_model(
        cls, model: ModelSpec, weights: str = "", experts: str = "", kv: str = "bf16"
    ) -> Formats:
        """Formats to serve `model` in: what is named, else what it was published in.

        A checkpoint published below 16 bits (the mxfp4 experts of gpt-oss, DeepSeek-V3 in fp8) is
        served as it is; one of 16 or 32 bits in bf16. Naming `weights` covers the experts too.
        """
        if weights:
            return cls(weights=weights, experts=experts, kv=kv)
        narrow = load_format(model.weight_format).bits_per_value < 16
        stored = model.weight_format if narrow else "bf16"
        dense = model.dense_format or stored
        return cls(weights=dense, experts=experts or ("" if dense == stored else stored), kv=kv)


@frozen(kw_only=True)
class Plan:
    """Parallel degrees of one instance.

    Attributes
    ----------
    tensor : int
        Ranks that split every matrix (Megatron style).
    pipeline : int
        Stages that split the layers.
    data : int
        Ranks that split the batch for attention while sharing the experts ("attention DP").
        For training: data-parallel replicas.
    expert : int
        Ranks that split the experts, out of `tensor * data`; the rest splits each expert.
    context : int
        Ranks that split the sequence.
    sequence_parallel : bool
        Norms and residuals sharded over `tensor` (Korthikanti et al. 2022).
    absorbed_mla : bool
        Decode multi-head latent attention in the latent space (DeepSeek-V2, section 2.1).
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    context: int = 1
    sequence_parallel: bool = False
    absorbed_mla: bool = True
    formats: Formats = Formats()

    def __attrs_post_init__(self) -> None:
        for name in ("tensor", "pipeline", "data", "expert", "context"):
            value = getattr(self, name)
            if value < 1:
                raise InvalidPlan(f"The plan's {name} degree is {value}; it must be at least 1.")
        if self.expert > 1 and (self.tensor * self.data) % self.expert:
            raise InvalidPlan(
                f"Expert parallelism of {self.expert} does not divide the "
                f"{self.tensor * self.data} ranks of tensor x data = {self.tensor} x {self.data}. "
                "Choose an expert degree that divides them."
            )

    @property
    def devices(self) -> int:
        """Devices of one instance."""
        return self.tensor * self.pipeline * self.data * self.context

    @property
    def expert_tensor(self) -> int:
        """Ranks that split each single expert."""
        return self.tensor * self.data // self.expert

    def kv_heads_per_rank(self, kv_heads: int) -> float:
        """KV heads one rank stores; below one head per rank they are replicated."""
        return max(1, kv_heads // self.tensor) if kv_heads else 0

    def check(self, model: ModelSpec) -> None:
        """Raise `InvalidPlan`, with the numbers, if the plan cannot be laid over `model`."""
        if self.pipeline > model.depth:
            raise InvalidPlan(
                f"{model.name} has {model.depth} layers, which {self.pipeline} pipeline stages "
                f"cannot share. Use at most {model.depth} stages."
            )
        if model.depth % self.pipeline:
            raise InvalidPlan(
                f"{model.name} has {model.depth} layers, which {self.pipeline} pipeline stages do "
                f"not divide. Use one of {_divisors(model.depth)}."
            )
        for group in model.layers:
            mixer, ffn = group.mixer, group.ffn
            if mixer.heads and mixer.heads % self.tensor:
                raise InvalidPlan(
                    f"{model.name} has {mixer.heads} attention heads, which a tensor degree of "
                    f"{self.tensor} does not divide. Use one of {_divisors(mixer.heads)}."
                )
            kv = mixer.kv_heads
            if kv and kv % self.tensor and self.tensor % kv:
                raise InvalidPlan(
                    f"{model.name} has {kv} KV heads; a tensor degree of {self.tensor} neither "
                    f"divides them nor is a multiple of them. Use one of {_divisors(mixer.heads)}."
                )
            if ffn.kind == "moe":
                self._check_experts(model.name, ffn.experts, ffn.inner)
            elif ffn.inner and ffn.inner % self.tensor:
                raise InvalidPlan(
                    f"{model.name} has a feed-forward width of {ffn.inner}, which a tensor degree "
                    f"of {self.tensor} does not divide."
                )

    def _check_experts(self, name: str, experts: int, inner: int) -> None:
        if experts % self.expert:
            raise InvalidPlan(
                f"{name} has {experts} experts, which an expert degree of {self.expert} does not "
                f"divide. Use one of {_divisors(experts)}."
            )
        if inner % self.expert_tensor:
            raise InvalidPlan(
                f"{name} has experts {inner} wide, which the remaining {self.expert_tensor} ranks "
                f"(tensor x data / expert) do not divide. Raise the expert degree."
            )

    def describe(self) -> str:
        """Short text such as `tp8 ep8`; `single device` for none."""
        short = {"tensor": "tp", "pipeline": "pp", "data": "dp", "expert": "ep", "context": "cp"}
        parts = [f"{s}{getattr(self, n)}" for n, s in short.items() if getattr(self, n) > 1]
        return " ".join(parts) or "single device"


_KEYS = {"tp": "tensor", "pp": "pipeline", "dp": "data", "ep": "expert", "cp": "context"}


def parse_plan(text: str, formats: Formats | None = None) -> Plan:
    """`"tp8,ep8"` (any of tp, pp, dp, ep, cp, and the word sp) as a `Plan`."""
    plan = Plan(formats=formats or Formats())
    for part in filter(None, re.split(r"[,\s]+", text.strip().lower())):
        if part == "sp":
            plan = evolve(plan, sequence_parallel=True)
            continue
        match = re.fullmatch(r"(tp|pp|dp|ep|cp)=?(\d+)", part)
        if not match:
            raise InvalidPlan(
                f"'{part}' in the plan '{text}' is not understood. "
                "Write degrees such as tp8,pp2,dp4,ep8,cp2, and sp for sequence parallelism."
            )
        plan = evolve(plan, **{_KEYS[match.group(1)]: int(match.group(2))})
    return plan


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0 and d <= 128)
