"""Models: an architecture as groups of equal layers, each a mixer and a feed-forward part.

Every model in the catalog, and any Hugging Face `config.json`, becomes a `ModelSpec`. Nothing
here knows about time or hardware; parameter counts are exact sums over the same shapes that the
cost engine multiplies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from attrs import evolve, field, frozen

from . import catalog, parameters
from .errors import InvalidInput, UnknownName
from .provenance import Source

KIND = "models"

_NEEDED = {
    "attention": ("heads", "kv_heads", "head_dim"),
    "mla": ("heads", "head_dim", "kv_rank", "rope_dim", "v_head_dim"),
    "linear": ("heads", "head_dim"),
    "ssm": ("heads", "head_dim", "state"),
    "simplicial": ("heads", "kv_heads", "head_dim", "window", "window2"),
    "conv": ("kernel", "stride", "groups"),
    "none": (),
}
"""Fields each kind of mixer cannot do without."""


def _too_small(part: Mixer | FeedForward, names: tuple[str, ...]) -> list[str]:
    return [
        f"{name} is {getattr(part, name)}; it must be at least 1"
        for name in names
        if getattr(part, name) < 1
    ]


@frozen(kw_only=True)
class Mixer:
    """The token-mixing half of a layer.

    Attributes
    ----------
    kind : str
        attention: softmax attention with `heads` query and `kv_heads` key/value heads
        (MHA when equal, MQA when 1, GQA between);
        mla: multi-head latent attention (DeepSeek), with `q_rank` (0: no query compression),
        `kv_rank`, `rope_dim`, `head_dim` (the non-rotary part) and `v_head_dim`;
        linear: linear attention with a matrix state per head (Lightning attention, gated
        DeltaNet), `heads` value heads, `kv_heads` key heads, `head_dim` key and `v_head_dim`
        value width, `conv` short-convolution width;
        ssm: Mamba-2 style state space with `heads` heads of `head_dim`, `state` columns and
        `groups` B/C groups; simplicial: 2-simplicial attention with `window` and `window2`;
        conv: convolution with `kernel`, `stride` and `groups`; none: no mixer.
    window : int
        Sliding window in tokens, 0 for full attention.
    causal : bool
    sinks : int
        Always-attended extra tokens or learned sink logits per head.
    qk_norm, qk_norm_width : bool, {"head", "all"}
        Whether queries and keys are normalised, with one weight vector of a head's width that
        all heads share (Qwen 3, Gemma 3) or one as wide as all heads (OLMo 2, MiniMax-M2).
    gated_output : bool
        Whether an output gate as wide as the heads is projected from the input.
    dt_rank : int
        Above 0 an `ssm` is Mamba-1: `heads` channels of `head_dim` 1, a full `heads` x `state`
        decay, and B, C and the step projected from the channels through this rank.
    index_heads, index_dim, index_topk : int
        Of an mla layer with sparse attention (DeepSeek-V3.2): heads and width of the indexer
        that scores all past tokens, and how many of them attention then reads; 0 for none.
    """

    kind: Literal["attention", "mla", "linear", "ssm", "simplicial", "conv", "none"]
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    v_head_dim: int = 0
    q_rank: int = 0
    kv_rank: int = 0
    rope_dim: int = 0
    window: int = 0
    window2: int = 0
    state: int = 0
    conv: int = 0
    groups: int = 1
    kernel: int = 0
    stride: int = 1
    causal: bool = True
    sinks: int = 0
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    qk_norm_width: Literal["head", "all"] = "head"
    gated_output: bool = False
    dt_rank: int = 0
    index_heads: int = 0
    index_dim: int = 0
    index_topk: int = 0
    cross: bool = False
    """True for an encoder-decoder's cross attention."""

    def __attrs_post_init__(self) -> None:
        problems = _too_small(self, _NEEDED[self.kind])
        if self.kind == "attention" and not problems and self.heads % self.kv_heads:
            problems.append(
                f"{self.heads} query heads cannot share {self.kv_heads} key/value heads evenly"
            )
        if problems:
            raise InvalidInput(f"a mixer of kind '{self.kind}': {'; '.join(problems)}")


@frozen(kw_only=True)
class FeedForward:
    """The channel-mixing half of a layer.

    Attributes
    ----------
    kind : str
        gated (three matrices), plain (two), moe (routed experts), none.
    inner : int
        Hidden width of the dense network, or of one routed expert.
    experts, experts_per_token : int
        Routed experts and how many each token visits (moe).
    shared_inner : int
        Total width of the shared experts every token visits (0: none).
    expert_kind : {"gated", "plain"}
    latent : int
        Width the routed experts work in, with one shared projection down to it and one back up
        (Nemotron 3 Super); 0 for the hidden width.
    capacity : float
        Fraction of tokens the layer processes (mixture of depths); 1 for all.
    """

    kind: Literal["gated", "plain", "moe", "none"]
    inner: int = 0
    experts: int = 0
    experts_per_token: int = 0
    shared_inner: int = 0
    expert_kind: Literal["gated", "plain"] = "gated"
    router_bias: bool = False
    shared_gate: bool = False
    bias: bool = False
    latent: int = 0
    capacity: float = 1.0

    def __attrs_post_init__(self) -> None:
        needed = {"none": (), "moe": ("inner", "experts", "experts_per_token")}
        problems = _too_small(self, needed.get(self.kind, ("inner",)))
        if self.experts_per_token > self.experts:
            problems.append(
                f"a token cannot visit {self.experts_per_token} of {self.experts} experts"
            )
        if not 0 < self.capacity <= 1:
            problems.append(f"capacity is {self.capacity}; it must be above 0 and at most 1")
        if problems:
            raise InvalidInput(f"a feed-forward of kind '{self.kind}': {'; '.join(problems)}")


@frozen(kw_only=True)
class LayerGroup:
    """`count` equal layers.

    Attributes
    ----------
    parallel : bool
        Attention and feed-forward read the same input (GPT-J, PaLM, Falcon).
    norms : int
        Norms with one weight vector of the hidden width per layer.
    """

    count: int
    mixer: Mixer
    ffn: FeedForward
    parallel: bool = False
    norms: int = 2
    norm_bias: bool = False

    def __attrs_post_init__(self) -> None:
        if self.count < 1 or self.norms < 0:
            raise InvalidInput(
                f"a group of {self.count} layers with {self.norms} norms each; at least one "
                "layer is needed and norms cannot be negative"
            )


@frozen(kw_only=True)
class Vision:
    """A patch embedder in front of the layers."""

    image: int
    patch: int
    channels: int = 3
    extra_tokens: int = field(default=1, metadata={"plain": True})

    @property
    def tokens(self) -> int:
        """Tokens one image becomes."""
        return (self.image // self.patch) ** 2 + self.extra_tokens


@frozen(kw_only=True)
class Check:
    """A published value that a derived one must meet."""

    quantity: Literal[
        "parameters", "active_parameters", "compute_parameters", "non_embedding_parameters"
    ]
    value: float
    rel_tol: float = 0.005
    source: str
    note: str = ""


@frozen(kw_only=True)
class ModelSpec:
    """A model architecture.

    Attributes
    ----------
    layers : tuple of LayerGroup
        Groups of equal layers; order inside a period does not matter for cost.
    positions : int
        Rows of a learned position table (0 if none).
    token_types : int
        Rows of a segment table (BERT).
    max_context : int
        Longest context in tokens.
    embedding_width : int
        Width of the token table where it differs from `hidden` (OPT-350M); two projections
        without bias then lead in and out.
    classes : int
        Outputs of a classification head with a bias (ViT), 0 for none.
    weight_format, dense_format : str
        Format the published weights are stored in; with a `dense_format`, `weight_format`
        covers the routed experts alone and everything else is stored in `dense_format`.
    extra_parameters : int
        Parameters outside everything modelled here, stated with a note: they take memory, but
        no token of text passes through them.
    """

    id: str
    name: str
    kind: Literal["decoder", "encoder", "encoder-decoder"] = "decoder"
    hidden: int
    vocab: int
    layers: tuple[LayerGroup, ...]
    max_context: int
    tied_embeddings: bool = False
    embedding_width: int = 0
    positions: int = 0
    token_types: int = 0
    final_norm: bool = True
    embedding_norm: bool = False
    head: bool = True
    head_bias: bool = False
    pooler: bool = False
    vision: Vision | None = None
    classes: int = 0
    weight_format: str = "bf16"
    dense_format: str = ""
    extra_parameters: int = 0
    released: str = ""
    hf_id: str = ""
    aliases: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    source: str
    note: str = ""
    sources: dict[str, Source] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if self.hidden < 1 or not self.layers:
            raise InvalidInput(f"{self.name}: hidden width and at least one layer are needed")

    @property
    def depth(self) -> int:
        """Number of layers."""
        return sum(group.count for group in self.layers)

    @property
    def parameters(self) -> int:
        """All parameters, embeddings included."""
        return parameters.count(self)

    @property
    def active_parameters(self) -> int:
        """Parameters one token of text uses: routed experts count only as many as it visits.

        Token tables count in full, as in the published 12.9B of Mixtral 8x7B or 37B of
        DeepSeek-V3.
        """
        return parameters.count_active(self)

    @property
    def compute_parameters(self) -> int:
        """Active parameters that multiply a token: without tables that are only looked up.

        A tied table counts once, as the head. This is the N of "2 N FLOP per token", and the
        "active" count of the gpt-oss model card.
        """
        return parameters.count_active(self) - parameters.looked_up(self)

    @property
    def non_embedding_parameters(self) -> int:
        """Parameters of the layers and norms: no token or position table, head or extras."""
        return parameters.count_non_embedding(self)


def load_model(name: str) -> ModelSpec:
    """A model by catalog id or alias, or a Hugging Face `config.json` by path.

    A name that is an existing file or folder, or that ends in `.json`, is read as a
    configuration; every other one is looked up in the catalog, at last without the words that a
    published checkpoint adds to its architecture: publisher, training stage, date, quantisation.
    A quantisation in the name becomes the format its weights are stored in.

    Raises
    ------
    UnknownName
        If the catalog has no such model; the nearest names are listed.
    CatalogError
        If the configuration cannot be read or lacks fields; all problems are listed.
    """
    if _is_config(name):
        from .hf_config import from_config

        return from_config(name)
    try:
        return catalog.load(KIND, name, ModelSpec, "model")
    except UnknownName:
        for own, stored in _architectures(name):
            with suppress(UnknownName):
                found = catalog.load(KIND, own, ModelSpec, "model")
                return _stored_as(found, stored) if stored else found
        raise


def load_asked(name: str) -> ModelSpec:
    """`load_model` for an answer to a person: a name that is another model's keeps being said.

    DeepSeek-R1 is priced as DeepSeek-V3, and its answers say both.
    """
    model = load_model(name)
    asked = name.strip().rpartition("/")[2]
    own = _is_config(name) or asked.lower() in catalog.paths(KIND)
    if own or all(_letters(word) in _letters(model.name) for word in _said(asked)):
        return model
    return evolve(model, name=f"{asked} (as {model.name})")


def _said(asked: str) -> list[str]:
    """Words of a name without those that a checkpoint adds to its architecture."""
    *_, (own, _) = _architectures(asked)
    return own.split("-")


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


ADDED = re.compile(
    r"-(it|instruct|chat|base|hf|fp8|fp4|nvfp4|mxfp4|bf16|fp16|int4|int8|awq|gptq|quantized|dynamic|"
    r"block|w\d+a\d+|v\d+(\.\d+)?|\d{4}|turbo)$"
)
"""A word at the end of a checkpoint's name that does not change its architecture."""
INT4 = "int4-g128"
STORED = {"fp8": "fp8", "fp4": "nvfp4", "nvfp4": "nvfp4", "mxfp4": "mxfp4", "int8": "int8",
          "int4": INT4, "w4a16": INT4, "awq": INT4, "gptq": INT4}  # fmt: skip
"""What such a word says of the weights."""


def _stored_as(model: ModelSpec, stored: str) -> ModelSpec:
    """The model in a checkpoint of another format; four bits of a mixture's are its experts'."""
    four_bits = stored in ("nvfp4", "mxfp4", INT4)
    if four_bits and any(g.ffn.kind == "moe" for g in model.layers):
        return evolve(model, weight_format=stored, dense_format="bf16")
    wide = model.weight_format in ("bf16", "fp16", "fp32")
    return evolve(model, weight_format=stored) if wide or four_bits else model


def _architectures(name: str) -> Iterator[tuple[str, str]]:
    """Shorter and shorter names of a checkpoint, each with the weights' format cut so far."""
    own, stored = name.strip().lower().rpartition("/")[2].replace(" ", "-"), ""
    while True:
        yield own, stored
        if own.startswith("meta-"):
            yield own.removeprefix("meta-"), stored
        found = ADDED.search(own)
        if not found:
            return
        stored = STORED.get(found.group(1), stored)
        own = own[: found.start()]


def _is_config(name: str) -> bool:
    if name.lower().endswith(".json"):
        return True
    path = Path(name)
    if path.is_dir():
        return (path / "config.json").is_file() or os.sep in name
    return path.is_file()
