"""Models: an architecture as groups of equal layers, each a mixer and a feed-forward part.

Every model in the catalog, and any Hugging Face `config.json`, becomes a `ModelSpec`. Nothing
here knows about time or hardware; parameter counts are exact sums over the same shapes that the
cost engine multiplies.
"""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen

from . import catalog
from .errors import InvalidInput
from .provenance import Source

KIND = "models"


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
    gated_output : bool
        Whether an output gate as wide as the heads is projected from the input.
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
    gated_output: bool = False
    cross: bool = False
    """True for an encoder-decoder's cross attention."""


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
    capacity: float = 1.0


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

    quantity: Literal["parameters", "active_parameters"]
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
    weight_format : str
        Format the published weights are stored in.
    extra_parameters : int
        Parameters outside everything modelled here, stated with a note.
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
    weight_format: str = "bf16"
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
        from .parameters import count

        return count(self)

    @property
    def active_parameters(self) -> int:
        """Parameters one token uses: routed experts count only as many as it visits."""
        from .parameters import count_active

        return count_active(self)


def load_model(name: str) -> ModelSpec:
    """A model by catalog id or alias, or a Hugging Face `config.json` by path."""
    return catalog.load(KIND, name, ModelSpec, "model")
