"""What a training run is: the job, the recipe all its plans share, and one plan or many as arrays.

`Plans` holds any number of plans as one integer array per degree, so memory, time and search are
array arithmetic; `TrainingPlan` is one of them, for people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import attrs
import numpy as np
from attrs import frozen

from ..cost.features import Array
from ..errors import InvalidInput, InvalidPlan
from ..formats import load_format
from ..models import ModelSpec
from .compression import GradientExchange, find_exchange

Schedule = Literal["gpipe", "1f1b", "interleaved", "zero-bubble", "dualpipe"]
Recompute = Literal["none", "selective", "alternate", "full"]
Offload = Literal["none", "cpu", "nvme"]
ContextExchange = Literal["ring", "all-gather", "ulysses"]
Placement = Literal["data-inside", "pipeline-inside"]
Optimizer = Literal["adam", "adam16", "adam8bit", "adafactor", "muon", "sgd", "learned"]
Module = Literal["layernorm", "core_attn", "mla_up_proj", "mlp", "moe_act", "moe", "shared_experts"]
Graphs = Literal["none", "layers", "iteration"]
SCHEDULES = get_args(Schedule)
OFFLOAD = get_args(Offload)
PLACEMENTS = get_args(Placement)
OPEN = len(PLACEMENTS)
"""Code of a root of a search that stands for every placement."""
RECOMPUTE = get_args(Recompute)
"""none; selective: the attention core (Korthikanti et al. 2022); alternate: everything but
attention's output and every second product's (torchtitan's per-operator option); full: layers."""

FROM_ZERO = ("zero", "shard", "full_layers", "offload_layers", "first", "last")
"""Fields of a plan that may be 0."""

MOST_IMBALANCE = 64.0
OPTIMIZER_BYTES = {"adam": 8.0, "adam16": 4.0, "adam8bit": 2.0, "adafactor": 0.0, "muon": 4.0,
                   "sgd": 4.0, "learned": 20.0}  # fmt: skip
"""State bytes per parameter besides the master weight: two fp32 moments; two in bf16; two 8-bit
moments (Dettmers et al. 2022; block scales under 0.1% left out); factored moments, vectors
(Shazeer and Stern 2018); one fp32 momentum (Muon, SGD); five fp32 accumulators that a small network
per parameter reads (Metz et al. 2022, arXiv 2203.11860)."""


@frozen(kw_only=True)
class TrainingJob:
    """What is to be trained.

    Attributes
    ----------
    global_batch : int
        Sequences per optimizer step.
    sequence_tokens : int
    tokens : float
        Tokens of the whole run; 0 where only the step matters.
    """

    model: ModelSpec
    global_batch: int
    sequence_tokens: int
    tokens: float = 0.0

    def __attrs_post_init__(self) -> None:
        for name in ("global_batch", "sequence_tokens"):
            if getattr(self, name) < 1:
                raise InvalidInput(
                    f"The {name.replace('_', ' ')} is {getattr(self, name)}; at least 1 is needed."
                )
        if not 0.0 <= self.tokens < float("inf"):
            raise InvalidInput(
                f"The run has {self.tokens:g} tokens; give a positive number such as 2T, or none."
            )

    @property
    def step_tokens(self) -> int:
        """Tokens per optimizer step."""
        return self.global_batch * self.sequence_tokens


@frozen(kw_only=True)
class Recipe:
    """Choices that all plans of one search share.

    Attributes
    ----------
    format : str
        Operand format of the linear layers: bf16, fp16, fp8-e4m3, mxfp8-e4m3, nvfp4, ...
    master_bytes, gradient_bytes : float
        Per parameter: the optimizer's own copy of the weights (0: none) and gradients.
    exchange : str
        How gradients travel between data ranks: fp32, bf16, 8bit, 1bit, powersgd4, ... (see
        `isoflop.training.compression`); empty: as they are held.
    fused_attention : bool
        FlashAttention-like kernels; otherwise scores go through memory.
    older_attention : bool
        Fused kernels written for Ampere (FlashAttention 1 and 2) where newer ones exist.
    dropout : bool
        Whether masks are kept (GPT-2 era recipes).
    compiled : bool
        Whether elementwise kernels are fused (torch.compile, Transformer Engine).
    fused_exchange : bool
        Expert dispatch and combine in one kernel each (DeepEP and its successors), near the link's
        rate, instead of permutations around a library's all-to-all.
    graphs : {"none", "layers", "iteration"}
        Which launches CUDA graphs replay: those of layers but for the products of routed experts,
        whose numbers of tokens change; or all of a step.
    fixed_capacity : bool
        Every expert computes as many token slots, and drops what exceeds them: its products are
        batched without asking the device how many tokens came.
    overlap_data, overlap_tensor, overlap_expert : bool
        Whether those collectives run beside compute.
    look_ahead : bool
        Whether ZeRO-3 gathers whole layers ahead of need; the first implementations (DeepSpeed in
        2021) gathered every matrix when it was needed.
    context : {"ring", "all-gather", "ulysses"}
        How context ranks attend to each other's tokens: keys and values pass by in a ring beside
        attention (Liu et al. 2023); all are gathered beside the first block of it (Llama 3,
        section 3.3.2; torchtitan); or two all-to-alls trade tokens for heads (Jacobs et al. 2023,
        DeepSpeed-Ulysses).
    placement : {"any", "data-inside", "pipeline-inside"}
        How a search may place ranks (a plan's `placement`).
    imbalance : float
        Tokens of the fullest expert rank over the mean; at least 1.
    repeated_keys : bool
        Whether grouped keys and values are repeated for every head before they are exchanged, as
        implementations without grouped attention kernels do.
    stage_buffers : bool
        Whether the pipeline allocates what stages receive for every micro-batch beforehand and
        keeps what they send, as PyTorch's own does.
    padded_vocabulary : bool
        Whether every rank's share of the vocabulary is padded to a width that matrix units read
        without loss, as Megatron-LM does; otherwise products of the head run as the width lets
        them.
    traced : bool
        A step put together from kernel traces of single layers: launches take as long as under the
        profiler and hide no collective, and nothing is spent once per step.
    logit_bytes : float
        Peak bytes kept per logit of the last stage's micro-batch.
    offload : {"none", "cpu", "nvme"}
        Where optimizer state lives: on the device, in host memory, or on the node's drives, from
        where the CPU updates it (Ren et al. 2021, ZeRO-Offload; Rajbhandari et al. 2021,
        ZeRO-Infinity).
    offload_weights : {"none", "cpu", "nvme"}
        How far away a search may keep sharded weights (a plan's `offload_weights`), which takes
        optimizer state that is away too.
    offload_activations : bool
        Whether a search may keep activations of some layers in host memory (a plan's
        `offload_layers`) where recomputing layers is slower.
    recompute_modules : tuple of str
        Modules of every layer computed again beside the plan's recomputation, by the names
        Megatron-LM gives them: layernorm (outputs of the norms), core_attn (scores and what they
        weigh), mla_up_proj (queries, keys and values from their latents), mlp (dense feed-forward),
        moe_act (activations inside routed experts), moe (routed and shared experts with their
        exchange), shared_experts.
    narrow_activations : bool
        Whether products of 8 or 4 bits keep their inputs as narrow as they read them (Transformer
        Engine); otherwise inputs are kept in 16 bits and rounded again (torchao).
    gathered_inputs : bool
        Whether products keep the inputs that sequence parallelism gathers for them, as a gather
        and a product in one chain of automatic differentiation do (nanotron), instead of gathering
        them again in the backward pass (Megatron-LM).
    adapters : bool
        Low-rank adapters alone are trained (Hu et al. 2021): frozen weights have no gradients and
        no optimizer state; the adapters' own are left out, under 1% of them.
    """

    format: str = "bf16"
    optimizer: Optimizer = "adam"
    master_bytes: float = 4.0
    gradient_bytes: float = 4.0
    exchange: str = ""
    fused_attention: bool = True
    older_attention: bool = False
    dropout: bool = False
    compiled: bool = True
    overlap_data: bool = True
    overlap_tensor: bool = False
    overlap_expert: bool = False
    fused_exchange: bool = False
    fixed_capacity: bool = False
    graphs: Graphs = "none"
    look_ahead: bool = True
    context: ContextExchange = "ring"
    placement: Literal["any", Placement] = "any"
    imbalance: float = 1.0
    repeated_keys: bool = False
    stage_buffers: bool = False
    padded_vocabulary: bool = True
    traced: bool = False
    logit_bytes: float = 4.0
    offload: Offload = "none"
    offload_weights: Offload = "none"
    offload_activations: bool = False
    recompute_modules: tuple[Module, ...] = ()
    narrow_activations: bool = False
    gathered_inputs: bool = False
    adapters: bool = False

    def __attrs_post_init__(self) -> None:
        load_format(self.format)
        if self.optimizer not in OPTIMIZER_BYTES:
            raise InvalidInput(
                f"The optimizer is '{self.optimizer}'; it must be one of "
                f"{', '.join(OPTIMIZER_BYTES)}."
            )
        if self.placement not in ("any", *PLACEMENTS):
            raise InvalidInput(
                f"The placement is '{self.placement}'; it must be one of "
                f"any, {', '.join(PLACEMENTS)}."
            )
        if not 1.0 <= self.imbalance <= MOST_IMBALANCE:
            raise InvalidInput(
                f"The imbalance is {self.imbalance}; it is the load of the fullest expert rank "
                f"over the mean, from 1 to {MOST_IMBALANCE:g}."
            )
        if self.context not in get_args(ContextExchange):
            raise InvalidInput(
                f"The context exchange is '{self.context}'; it must be one of "
                f"{', '.join(get_args(ContextExchange))}."
            )
        if self.graphs not in get_args(Graphs):
            raise InvalidInput(
                f"CUDA graphs are '{self.graphs}'; they replay {', '.join(get_args(Graphs))}."
            )
        if self.exchange:
            find_exchange(self.exchange)
        if self.offload_weights != "none" and not self.state_is_away:
            raise InvalidInput(
                f"Weights may go to {self.offload_weights} where the optimizer's state, which has "
                "a copy of them, has left the device too: add --offload cpu or nvme, or train "
                "adapters alone."
            )
        strange = [m for m in self.recompute_modules if m not in get_args(Module)]
        if strange:
            raise InvalidInput(
                f"'{strange[0]}' is no module that can be recomputed alone; choose among "
                f"{', '.join(get_args(Module))}."
            )

    @property
    def rounds(self) -> float:
        """Forward passes' worth of FLOP a step needs: frozen weights have no gradient of theirs."""
        return 2.0 if self.adapters else 3.0

    @property
    def state_is_away(self) -> bool:
        """Whether no optimizer state of the weights is on the device."""
        return self.offload != "none" or self.adapters

    @property
    def gradient_exchange(self) -> GradientExchange:
        """How gradients travel."""
        if self.exchange:
            return find_exchange(self.exchange)
        return GradientExchange(name="as held", bytes_per_value=self.gradient_bytes)

    @property
    def state_bytes(self) -> float:
        """Optimizer bytes per parameter, master weight included."""
        return self.master_bytes + OPTIMIZER_BYTES[self.optimizer]


@frozen(kw_only=True)
class TrainingPlan:
    """One plan.

    Attributes
    ----------
    tensor, pipeline, data, context : int
        Degrees; their product is the number of devices.
    expert, expert_tensor : int
        Ranks that share the experts, and ranks that split each; laid over tensor x context x data.
    micro_batch : int
        Sequences per micro-batch and replica.
    virtual : int
        Model chunks per stage (interleaving).
    zero : int
        ZeRO stage: 1 shards optimizer state over data ranks, 2 gradients too, 3 weights too.
    shard : int
        Ranks that ZeRO shards over (hybrid sharding); 0: all data ranks.
    full_layers : int
        Layers of every stage that are recomputed whole where `recompute`, none or selective, holds
        for the others (Megatron-LM's block method); 0: none.
    offload_layers : int
        Layers of every stage whose activations wait in host memory for their backward pass.
    offload_weights : {"none", "cpu", "nvme"}
        Where every rank keeps its shard of the weights under ZeRO-3 (Rajbhandari et al. 2021,
        ZeRO-Infinity): fetched over its own link and gathered layer by layer, forward and backward;
        reduced gradients leave for where the optimizer's state is.
    placement : {"data-inside", "pipeline-inside"}
        Which ranks stay on the fast links of a node after tensor and context ranks: ranks lie
        closest together in the order tensor, context, data, pipeline (Narayanan et al. 2021), or
        tensor, context, pipeline, data (Llama 3, section 3.3.2).
    first, last : int
        Layers of the first and the last stage, the rest spread over those between; 0: spread too.
        Several chunks of a stage share its layers evenly.
    layers : tuple of int
        Layers of every stage, instead of first and last, or of every chunk in the model's order:
        the first chunk of every stage, then the second; empty: spread evenly.
    balanced : bool
        Ask for the layers that make the slowest stage quickest, head included; pricing the plan
        (`isoflop.training.report.describe_plan`) fills them in.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    context: int = 1
    expert: int = 1
    expert_tensor: int = 1
    micro_batch: int = 1
    virtual: int = 1
    zero: int = 1
    shard: int = 0
    recompute: Recompute = "none"
    schedule: Schedule = "1f1b"
    sequence_parallel: bool = False
    full_layers: int = 0
    offload_layers: int = 0
    offload_weights: Offload = "none"
    placement: Placement = "data-inside"
    first: int = 0
    last: int = 0
    layers: tuple[int, ...] = ()
    balanced: bool = False

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(TrainingPlan):
            value = getattr(self, field.name)
            low = 0 if field.name in FROM_ZERO else 1
            if field.type == "int" and (value < low or (field.name == "zero" and value > 3)):
                raise InvalidPlan(
                    f"The plan's {field.name.replace('_', ' ')} is {value}; it must be "
                    + ("0, 1, 2 or 3." if field.name == "zero" else f"at least {low}.")
                )
        if self.virtual > 1 and self.pipeline == 1:
            raise InvalidPlan(
                f"{self.virtual} virtual stages need a pipeline; the plan has one stage. "
                "Use vpp1 or a pipeline degree above 1."
            )
        if self.placement != PLACEMENTS[0] and self.pipeline == 1:
            raise InvalidPlan(
                f"{self.placement} places pipeline stages, and the plan has one. Give a pipeline "
                f"degree above 1, or leave {self.placement} out."
            )
        if self.full_layers and self.recompute not in ("none", "selective"):
            raise InvalidPlan(
                f"full{self.full_layers} recomputes that many layers of a stage beside none or "
                f"selective recomputation, not beside {self.recompute}. Name one of the two."
            )
        if self.offload_weights != "none" and (self.zero != 3 or self.pipeline > 1):
            raise InvalidPlan(
                f"Weights wait in {self.offload_weights} memory as the shards of ZeRO 3, fetched "
                "layer by layer; a pipeline keeps them gathered between micro-batches. Use zero3 "
                "without pp, or leave weights out of the plan."
            )
        self._check_stages()

    def _check_stages(self) -> None:
        """Raise `InvalidPlan` where uneven stages contradict the pipeline."""
        if not self.uneven:
            return
        if self.pipeline == 1 or self.schedule == "dualpipe":
            raise InvalidPlan(
                "Stages of unequal size need a pipeline of one direction: a pp above 1, and "
                "another schedule than dualpipe."
            )
        if bool(self.layers) + bool(self.first or self.last) + self.balanced > 1:
            raise InvalidPlan(
                "Give first and last, or the layers of every stage, or balanced; not two of them."
            )
        if not self.layers:
            return
        p, v = self.pipeline, self.virtual
        held = [sum(self.layers[s::p]) for s in range(p)]
        if len(self.layers) != p * v or min(held) < 1:
            named = f"stages; the pipeline has {p}, each"
            if v > 1:
                named = f"chunks; the pipeline has {p} stages of {v}, named in the model's order "
                named += "(the first chunk of every stage, then the second), and each stage"
            raise InvalidPlan(
                f"The list of layers names {len(self.layers)} {named} with at least one layer."
            )

    @property
    def uneven(self) -> bool:
        """Whether the plan says how many layers its stages have."""
        return bool(self.first or self.last or self.layers or self.balanced)

    @property
    def devices(self) -> int:
        """Devices the plan needs."""
        return self.tensor * self.pipeline * self.data * self.context

    def describe(self) -> str:
        """Short text that `isoflop.training.plan_text` reads back: `tp8,pp4,dp16,mb1,zero1`."""
        short = {
            "tp": self.tensor, "pp": self.pipeline, "dp": self.data, "cp": self.context,
            "ep": self.expert, "etp": self.expert_tensor, "vpp": self.virtual,
        }  # fmt: skip
        parts = [f"{k}{v}" for k, v in short.items() if v > 1]
        parts += ["sp"] if self.sequence_parallel else []
        parts += [f"mb{self.micro_batch}", f"zero{self.zero}"]
        parts += [f"shard{self.shard}"] if self.shard else []
        parts += [self.recompute] if self.recompute != "none" else []
        counts = {"full": self.full_layers, "offload": self.offload_layers,
                  "first": self.first, "last": self.last}  # fmt: skip
        parts += [f"{k}{v}" for k, v in counts.items() if v]
        parts += [f"weights={self.offload_weights}"] if self.offload_weights != "none" else []
        parts += ["balanced"] if self.balanced else []
        parts += ["layers=" + "/".join(map(str, self.layers))] if self.layers else []
        default = "interleaved" if self.virtual > 1 else "1f1b"
        parts += [self.schedule] if self.pipeline > 1 and self.schedule != default else []
        parts += [self.placement] if self.placement != PLACEMENTS[0] else []
        return ",".join(parts)


@frozen(kw_only=True, eq=False)
class Plans:
    """Many plans: one integer array per field of `TrainingPlan`, all of one shape.

    `recompute`, `schedule`, `offload_weights` and `placement` index RECOMPUTE, SCHEDULES, OFFLOAD
    and PLACEMENTS; `shard` is filled in. `stages` holds the explicit layers of each chunk in the
    model's order, shape (plans, most chunks), -1 where a plan gives none.
    """

    tensor: Array
    pipeline: Array
    data: Array
    context: Array
    expert: Array
    expert_tensor: Array
    micro_batch: Array
    virtual: Array
    zero: Array
    shard: Array
    recompute: Array
    schedule: Array
    sequence_parallel: Array
    full_layers: Array
    offload_layers: Array
    offload_weights: Array
    placement: Array
    first: Array
    last: Array
    stages: Array

    @classmethod
    def of(cls, plans: Sequence[TrainingPlan]) -> Plans:
        """Single plans side by side."""
        names = [f.name for f in attrs.fields(cls) if f.name != "stages"]
        columns = {name: np.array([getattr(p, name) for p in plans]) for name in names}
        most = max((len(p.layers) for p in plans), default=0)
        columns["stages"] = np.full((len(plans), most), -1)
        for row, p in zip(columns["stages"], plans, strict=True):
            row[: len(p.layers)] = p.layers
        columns["recompute"] = np.array([RECOMPUTE.index(p.recompute) for p in plans])
        columns["schedule"] = np.array([SCHEDULES.index(p.schedule) for p in plans])
        columns["offload_weights"] = np.array([OFFLOAD.index(p.offload_weights) for p in plans])
        columns["placement"] = np.array([PLACEMENTS.index(p.placement) for p in plans])
        columns["shard"] = np.array([p.shard or p.data * p.context for p in plans])
        return cls(**columns)

    def __len__(self) -> int:
        return len(self.tensor)

    def take(self, index: Array | slice) -> Plans:
        """The plans at `index` (a mask, positions or a slice)."""
        return Plans(**{f.name: getattr(self, f.name)[index] for f in attrs.fields(Plans)})

    @classmethod
    def concatenate(cls, parts: Sequence[Plans]) -> Plans:
        """Several arrays of plans in a row, whose lists of stages are equally long."""
        names = [f.name for f in attrs.fields(cls)]
        return cls(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})

    def at(self, index: int) -> TrainingPlan:
        """One plan."""
        names = [f.name for f in attrs.fields(Plans) if f.name != "stages"]
        values = {name: int(getattr(self, name)[index]) for name in names}
        whole = values["data"] * values["context"]
        values["shard"] = 0 if values["shard"] == whole else values["shard"]
        return TrainingPlan(**values | {
            "recompute": RECOMPUTE[values["recompute"]],
            "schedule": SCHEDULES[values["schedule"]],
            "offload_weights": OFFLOAD[values["offload_weights"]],
            "placement": PLACEMENTS[values["placement"]],
            "sequence_parallel": bool(values["sequence_parallel"]),
            "layers": tuple(int(n) for n in self.stages[index] if n >= 0),
        })  # type: ignore[arg-type]  # fmt: skip
