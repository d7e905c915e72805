"""Options of `isoflop plan`: the job's size, and the recipe that all of its plans share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import frozen
from cyclopts import Parameter

from ._options import Count

if TYPE_CHECKING:
    from ..models import ModelSpec
    from ..training.plan import Recipe, TrainingJob

MASTER = {"fp32": 4.0, "bf16": 2.0, "none": 0.0}
DEFAULT_SEQUENCE = 4096
DEFAULT_BATCH_TOKENS = 4_194_304
Flag = Annotated[bool, Parameter(negative=())]
Place = Literal["none", "cpu", "nvme"]


@Parameter(name="*")
@frozen(kw_only=True)
class JobOptions:
    """What is trained.

    Attributes
    ----------
    tokens
        Tokens of the run, such as 2T: adds days, dollars and energy.
    batch
        Tokens per step, such as 4M, moved by up to 5% to a number of sequences that many degrees
        divide; default 4,194,304.
    global_batch
        Sequences per step, instead of batch, as they are.
    seq
        Tokens per sequence; default 4096, or the model's limit where that is less.
    """

    tokens: str = ""
    batch: str = ""
    global_batch: Count | None = None
    seq: Count | None = None

    def job(self, spec: ModelSpec) -> TrainingJob:
        """The job of training a model."""
        from ..errors import InvalidInput
        from ..training.plan import TrainingJob
        from ..training.space import well_divided
        from ..units import parse

        length = self.seq if self.seq is not None else min(DEFAULT_SEQUENCE, spec.max_context)
        if length < 1:
            raise InvalidInput(f"The sequence length is {length}; it must be at least 1.")
        if self.batch and self.global_batch is not None:
            raise InvalidInput("Give --batch in tokens or --global-batch in sequences, not both.")
        sequences = self.global_batch
        if sequences is None:
            batch = self.batch
            wanted = parse(batch, "tokens", "batch") if batch else float(DEFAULT_BATCH_TOKENS)
            if not 0 < wanted < float("inf"):
                raise InvalidInput(f"The batch is {batch}; it must be a positive number of tokens.")
            exact = wanted / length
            sequences = int(exact) if exact == int(exact) else well_divided(exact)
        run = parse(self.tokens, "tokens", "tokens") if self.tokens else 0.0
        return TrainingJob(model=spec, global_batch=sequences, sequence_tokens=length, tokens=run)


@Parameter(name="*")
@frozen(kw_only=True)
class RecipeOptions:
    """How it is trained, whatever the plan.

    Attributes
    ----------
    weights
        Operand format of the linear layers: bf16, fp16, fp8, mxfp8-e4m3, nvfp4.
    optimizer
        Decides the bytes of state per parameter.
    master
        The optimizer's own copy of the weights: fp32, bf16, or none.
    offload
        Where optimizer state lives: on the device, in host memory or on the node's drives.
    offload_weights
        How far away the search may keep the shards of ZeRO 3 (ZeRO-Infinity): host memory, or the
        node's drives too; in a plan of yours: weights=cpu or weights=nvme.
    offload_activations
        Let the search keep activations of some layers in host memory where that is quicker than
        computing them again; in a plan of yours: offload20.
    recompute_modules
        Modules computed again in every layer, by commas: layernorm, core_attn, mla_up_proj, mlp,
        moe_act, moe, shared_experts.
    graphs
        Launches that CUDA graphs replay: none, those of layers but for routed experts, or a whole
        iteration.
    narrow_activations
        Products of 8 or 4 bits keep their inputs as narrow (Transformer Engine).
    gradients
        How gradients travel between data ranks: fp32 (default), bf16, 8bit, 1bit, or powersgd4 for
        factors of rank 4.
    held_gradients
        How gradients are added up and, unless --gradients says otherwise, travel.
    context
        How context ranks exchange keys and values: ring, all-gather, or ulysses (heads for tokens).
    placement
        Which ranks share a node's fast links after tensor and context ranks: data or pipeline; any
        lets the search choose; in a plan of yours: pipeline-inside.
    imbalance
        Tokens of the fullest expert rank over the mean: what its experts compute, hold and receive.
    adapters
        Train low-rank adapters alone (LoRA): frozen weights have no gradients or optimizer state.
    overlap_tensor
        Tensor-parallel collectives overlap with products.
    overlap_expert
        The exchange of tokens between experts overlaps with compute.
    """

    weights: Annotated[str, Parameter(name="--format")] = "bf16"
    optimizer: Literal["adam", "adam16", "adam8bit", "adafactor", "muon", "sgd", "learned"] = "adam"
    master: Literal["fp32", "bf16", "none"] = "fp32"
    offload: Place = "none"
    offload_weights: Place = "none"
    offload_activations: Flag = False
    recompute_modules: str = ""
    graphs: Annotated[Literal["none", "layers", "iteration"], Parameter(name="--cuda-graphs")] = (
        "none"
    )
    narrow_activations: Flag = False
    gradients: str = ""
    held_gradients: Literal["fp32", "bf16"] = "fp32"
    context: Literal["ring", "all-gather", "ulysses"] = "ring"
    placement: Literal["any", "data-inside", "pipeline-inside"] = "any"
    imbalance: float = 1.0
    adapters: Flag = False
    overlap_tensor: Flag = False
    overlap_expert: Flag = False

    def recipe(self) -> Recipe:
        """The recipe that they say."""
        from ..formats import load_format
        from ..training.plan import Recipe

        return Recipe(
            format=load_format(self.weights).id, optimizer=self.optimizer, offload=self.offload,
            offload_weights=self.offload_weights, offload_activations=self.offload_activations,
            exchange=self.gradients, gradient_bytes=4.0 if self.held_gradients == "fp32" else 2.0,
            context=self.context, placement=self.placement, imbalance=self.imbalance,
            master_bytes=MASTER[self.master], adapters=self.adapters,
            narrow_activations=self.narrow_activations, graphs=self.graphs,
            recompute_modules=_modules(self.recompute_modules),
            overlap_tensor=self.overlap_tensor, overlap_expert=self.overlap_expert,
            fused_exchange=True,
        )  # fmt: skip


DEFAULT_JOB, DEFAULT_RECIPE = JobOptions(), RecipeOptions()


def _modules(text: str) -> tuple[Any, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))
