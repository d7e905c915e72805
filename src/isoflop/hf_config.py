"""Any Hugging Face `config.json` as a model: one small reader per architecture family.

Readers translate field names; the shapes and every count stay in `models` and `parameters`. A
`model_type` without a reader is read as a llama-like decoder where its fields allow, and the note
says so. All missing or impossible fields of a file are reported together.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import evolve

from .errors import CatalogError, InvalidInput
from .models import FeedForward, LayerGroup, Mixer, ModelSpec, Vision
from .provenance import Source

Top = dict[str, Any]
Answer = tuple[list[LayerGroup], Top]


class Fields:
    """A configuration that remembers every field it was asked for and did not have."""

    def __init__(self, table: Mapping[str, Any]):
        self.table = table
        self.problems: list[str] = []

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of `names` that is present and not null."""
        for name in names:
            if self.table.get(name) is not None:
                return self.table[name]
        return default

    def integer(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of at least `least`; missing or impossible ones become problems."""
        value = self.get(*names, default=default)
        if value is None:
            self.problems.append(f"lacks '{names[0]}'")
            return least
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
            self.problems.append(f"'{names[0]}' is {value!r}; it must be a whole number")
            return least
        if value < least:
            self.problems.append(f"'{names[0]}' is {value}; it must be at least {least}")
            return least
        return int(value)


def from_config(path: str | Path) -> ModelSpec:
    """The model that a `config.json`, or a folder holding one, describes.

    Raises
    ------
    CatalogError
        If the file cannot be read, is not a JSON object, or lacks fields; all problems at once.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "config.json"
    f = Fields(_flat(_read(file)))
    kind = str(f.get("model_type", default="")).lower()
    reader = _READERS.get(kind)
    note = "" if reader else f"model_type '{kind or 'absent'}' is not known; read as llama-like"
    try:
        groups, top = (reader or _llama)(f)
        name = str(f.get("_name_or_path", default="") or file.parent.name or file.stem)
        spec = None if f.problems else _spec(f, groups, top, name, file, note)
    except InvalidInput as error:
        f.problems.append(str(error))
        spec = None
    if spec is None:
        raise CatalogError(str(file), f.problems)
    return spec


def _read(file: Path) -> dict[str, Any]:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogError(str(file), [f"cannot be read: {error.strerror}"]) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CatalogError(str(file), [f"is not valid JSON: {error}"]) from None
    if not isinstance(table, dict):
        raise CatalogError(str(file), ["must hold a JSON object"])
    return table


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    """Multimodal configurations nest the language model; its fields win."""
    for key in ("text_config", "language_config", "llm_config"):
        inner = table.get(key)
        if isinstance(inner, dict):
            outer = {k: v for k, v in table.items() if k != key}
            return {**outer, **inner}
    return table


def _spec(
    f: Fields, groups: list[LayerGroup], top: Top, name: str, file: Path, note: str
) -> ModelSpec:
    fields: Top = {
        "hidden": f.integer("hidden_size", "n_embd", "d_model"),
        "vocab": f.integer("vocab_size", default=0, least=0),
        "max_context": f.integer("max_position_embeddings", "n_positions", "max_seq_len",
                                 "seq_length", "max_sequence_length", default=2048),
        "tied_embeddings": bool(f.get("tie_word_embeddings", default=False)),
        "weight_format": _format(f),
    }  # fmt: skip
    notes = [n for n in (note, top.pop("note", "")) if n]
    return ModelSpec(
        id=file.parent.name or "config", name=name, layers=tuple(groups), source="config",
        note="; ".join(notes), sources={"config": Source(title=name, locator=file.name)},
        **(fields | top),
    )  # fmt: skip


def _format(f: Fields) -> str:
    quant = f.get("quantization_config", default={})
    method = str(quant.get("quant_method", "")).lower() if isinstance(quant, dict) else ""
    if method == "fp8":
        return "fp8-block" if quant.get("weight_block_size") else "fp8-e4m3"
    if method == "mxfp4":
        return "mxfp4"
    if method in ("awq", "gptq", "compressed-tensors") and quant.get("bits", 4) == 4:
        return "int4-g128"
    dtype = str(f.get("torch_dtype", "dtype", default="bfloat16"))
    return {"float16": "fp16", "float32": "fp32"}.get(dtype, "bf16")


def _heads(f: Fields, *, bias: bool = False, **extra: Any) -> Mixer:
    """Softmax attention from the usual fields."""
    hidden = f.integer("hidden_size", "n_embd", "d_model")
    heads = f.integer("num_attention_heads", "n_head", "n_heads")
    if f.get("head_dim") is None and hidden % heads:
        f.problems.append(
            f"'hidden_size' {hidden} is not a multiple of 'num_attention_heads' {heads} and no "
            "'head_dim' says otherwise"
        )
    kv = f.integer("num_key_value_heads", "num_kv_heads", "n_head_kv", default=heads)
    if heads % kv:
        f.problems.append(f"'num_key_value_heads' {kv} does not divide the {heads} heads")
        kv = heads
    bias = bool(f.get("attention_bias", "qkv_bias", default=bias))
    return Mixer(
        kind="attention", heads=heads, kv_heads=kv,
        head_dim=f.integer("head_dim", default=max(1, hidden // heads)), qkv_bias=bias, **extra,
    )  # fmt: skip


def _depth(f: Fields) -> int:
    return f.integer("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def _inner(f: Fields) -> int:
    hidden = f.integer("hidden_size", "n_embd", "d_model")
    return f.integer("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size",
                     default=4 * hidden if f.get("n_embd", "n_head", "ffn_hidden_size",
                                                 "d_model") else None)  # fmt: skip


def _alternate(f: Fields, mixer: Mixer, ffn: FeedForward, window: int, **extra: Any) -> Answer:
    """Sliding and full attention, by `layer_types` or by a period."""
    depth = _depth(f)
    types = f.get("layer_types")
    if isinstance(types, list):
        sliding = sum("sliding" in str(t) or "chunked" in str(t) for t in types)
    else:
        period = f.integer("sliding_window_pattern", "_sliding_window_pattern", default=2)
        sliding = depth - depth // period
    local = evolve(mixer, window=window)
    groups = [
        LayerGroup(count=n, mixer=m, ffn=ffn, **extra)
        for n, m in ((sliding, local), (depth - sliding, mixer))
        if n > 0
    ]
    return groups, {}


def _llama(f: Fields) -> Answer:
    """Llama, Mistral, Qwen, Phi-3, Granite, SmolLM, InternLM, Yi and unknown decoders."""
    ffn = FeedForward(kind="gated", inner=_inner(f))
    mixer = _heads(f)
    window = f.get("sliding_window")
    if window and f.get("use_sliding_window", default=True):
        mixer = evolve(mixer, window=int(window))
    return [LayerGroup(count=_depth(f), mixer=mixer, ffn=ffn)], {}


def _qwen2(f: Fields) -> Answer:
    groups, top = _llama(f)
    return [evolve(g, mixer=evolve(g.mixer, qkv_bias=True)) for g in groups], top


def _qwen3(f: Fields) -> Answer:
    groups, top = _llama(f)
    return [evolve(g, mixer=evolve(g.mixer, qk_norm=True)) for g in groups], top


def _experts(f: Fields, **extra: Any) -> FeedForward:
    inner = f.integer("moe_intermediate_size", "intermediate_size")
    shared = f.integer("n_shared_experts", default=0, least=0) * inner
    shared = f.integer("shared_expert_intermediate_size", default=shared, least=0)
    return FeedForward(
        kind="moe", inner=inner,
        experts=f.integer("num_local_experts", "num_experts", "n_routed_experts"),
        experts_per_token=f.integer("num_experts_per_tok", "num_experts_per_token", "moe_k"),
        shared_inner=shared, **extra,
    )  # fmt: skip


def _mixtral(f: Fields) -> Answer:
    return [LayerGroup(count=_depth(f), mixer=_heads(f), ffn=_experts(f))], {}


def _qwen_moe(f: Fields) -> Answer:
    norm = str(f.get("model_type")).startswith("qwen3")
    mixer = _heads(f, bias=not norm, qk_norm=norm)
    return [
        LayerGroup(count=_depth(f), mixer=mixer, ffn=_experts(f, shared_gate=not norm))
    ], {}  # fmt: skip


def _qwen_next(f: Fields) -> Answer:
    """Gated DeltaNet with gated attention every `full_attention_interval` layers."""
    depth = _depth(f)
    full = depth // f.integer("full_attention_interval", default=4)
    ffn = _experts(f, shared_gate=True)
    linear = Mixer(
        kind="linear", heads=f.integer("linear_num_value_heads"),
        kv_heads=f.integer("linear_num_key_heads"), head_dim=f.integer("linear_key_head_dim"),
        v_head_dim=f.integer("linear_value_head_dim"),
        conv=f.integer("linear_conv_kernel_dim", default=4), gated_output=True,
    )  # fmt: skip
    attention = _heads(f, gated_output=True, qk_norm=True)
    return [
        LayerGroup(count=depth - full, mixer=linear, ffn=ffn),
        LayerGroup(count=full, mixer=attention, ffn=ffn),
    ], {}


def _deepseek(f: Fields) -> Answer:
    heads = f.integer("num_attention_heads")
    mixer = Mixer(
        kind="mla", heads=heads, kv_heads=heads, head_dim=f.integer("qk_nope_head_dim"),
        v_head_dim=f.integer("v_head_dim"), q_rank=f.integer("q_lora_rank", default=0, least=0),
        kv_rank=f.integer("kv_lora_rank"), rope_dim=f.integer("qk_rope_head_dim"),
    )  # fmt: skip
    if f.get("index_topk"):  # sparse attention (DeepSeek-V3.2, GLM-5)
        mixer = evolve(mixer, index_heads=f.integer("index_n_heads"),
                       index_dim=f.integer("index_head_dim"),
                       index_topk=f.integer("index_topk"))  # fmt: skip
    routed = f.get("scoring_func") == "sigmoid" or f.get("topk_method") == "noaux_tc"
    dense = f.integer("first_k_dense_replace", default=0, least=0)
    moe = _experts(f, router_bias=routed)
    first = FeedForward(kind="gated", inner=f.integer("intermediate_size"))
    parts = ((dense, first), (_depth(f) - dense, moe))
    return [LayerGroup(count=n, mixer=mixer, ffn=ffn) for n, ffn in parts if n > 0], {}


def _glm_moe(f: Fields) -> Answer:
    mixer = _heads(f, qk_norm=bool(f.get("use_qk_norm", default=False)))
    dense = f.integer("first_k_dense_replace", default=0, least=0)
    first = FeedForward(kind="gated", inner=f.integer("intermediate_size"))
    parts = ((dense, first), (_depth(f) - dense, _experts(f, router_bias=True)))
    return [LayerGroup(count=n, mixer=mixer, ffn=ffn) for n, ffn in parts if n > 0], {}


def _gpt_oss(f: Fields) -> Answer:
    mixer = _heads(f, bias=True, out_bias=True, sinks=1)
    ffn = _experts(f, router_bias=True, bias=True)
    return _alternate(f, mixer, ffn, f.integer("sliding_window", default=128))


def _gemma(f: Fields) -> Answer:
    f.table = {"tie_word_embeddings": True, "head_dim": 256, **f.table}
    ffn = FeedForward(kind="gated", inner=_inner(f))
    kind = str(f.get("model_type"))
    mixer = _heads(f, qk_norm="gemma3" in kind)
    if kind == "gemma":
        return [LayerGroup(count=_depth(f), mixer=mixer, ffn=ffn)], {"tied_embeddings": True}
    if "gemma3" in kind:
        f.table = {"sliding_window_pattern": 6, **f.table}
    window = f.integer("sliding_window", default=4096)
    groups, _ = _alternate(f, mixer, ffn, window, norms=4)
    return groups, {"tied_embeddings": True}


def _gpt(f: Fields, *, parallel: bool = False, norms: int = 2, bias: bool = True) -> LayerGroup:
    """A layer of the GPT-2 kind: plain network, biases everywhere, two-parameter norms."""
    mixer = _heads(f, bias=bias, out_bias=bias)
    return LayerGroup(
        count=_depth(f), mixer=mixer, ffn=FeedForward(kind="plain", inner=_inner(f), bias=True),
        parallel=parallel, norms=norms, norm_bias=True,
    )  # fmt: skip


def _gpt2(f: Fields) -> Answer:
    positions = f.integer("n_positions", "n_ctx", default=1024)
    return [_gpt(f)], {"tied_embeddings": True, "positions": positions, "max_context": positions}


def _opt(f: Fields) -> Answer:
    positions = f.integer("max_position_embeddings")
    return [_gpt(f)], {"tied_embeddings": True, "positions": positions + 2}


def _neox(f: Fields) -> Answer:
    return [_gpt(f, parallel=bool(f.get("use_parallel_residual", default=True)))], {}


def _gptj(f: Fields) -> Answer:
    return [_gpt(f, parallel=True, norms=1, bias=False)], {"head_bias": True}


def _phi(f: Fields) -> Answer:
    return [_gpt(f, parallel=True, norms=1)], {"head_bias": True}


def _bloom(f: Fields) -> Answer:
    return [_gpt(f)], {"tied_embeddings": True, "embedding_norm": True}


def _falcon(f: Fields) -> Answer:
    new = bool(f.get("new_decoder_architecture", default=False))
    if not new and f.get("multi_query", default=True):
        f.table = {**f.table, "num_kv_heads": 1}
    ffn = FeedForward(kind="plain", inner=_inner(f), bias=bool(f.get("bias", default=False)))
    group = LayerGroup(
        count=_depth(f), mixer=_heads(f), ffn=ffn, parallel=True, norms=2 if new else 1,
        norm_bias=True,
    )  # fmt: skip
    return [group], {"tied_embeddings": bool(f.get("tie_word_embeddings", default=True))}


def _mpt(f: Fields) -> Answer:
    inner = f.integer("expansion_ratio", default=4) * f.integer("d_model")
    attn = f.get("attn_config", default={})
    if isinstance(attn, dict) and attn.get("kv_n_heads"):
        f.table = {**f.table, "num_key_value_heads": attn["kv_n_heads"]}
    ffn = FeedForward(kind="plain", inner=inner)
    return [LayerGroup(count=_depth(f), mixer=_heads(f), ffn=ffn)], {"tied_embeddings": True}


def _bert(f: Fields) -> Answer:
    group = _gpt(f)
    group = evolve(group, mixer=evolve(group.mixer, causal=False))
    return [group], {
        "kind": "encoder", "head": False, "pooler": True, "embedding_norm": True,
        "final_norm": False, "tied_embeddings": True,
        "positions": f.integer("max_position_embeddings"),
        "token_types": f.integer("type_vocab_size", default=2, least=0),
    }  # fmt: skip


def _vit(f: Fields) -> Answer:
    f.table = {**f.table, "vocab_size": 0}
    group = _gpt(f)
    vision = Vision(image=f.integer("image_size"), patch=f.integer("patch_size"))
    return [evolve(group, mixer=evolve(group.mixer, causal=False))], {
        "kind": "encoder", "head": False, "vision": vision, "max_context": vision.tokens,
    }  # fmt: skip


def _minimax(f: Fields) -> Answer:
    """Lightning attention with full attention where `attn_type_list` holds a 1."""
    kinds = Counter(f.get("attn_type_list", default=[1] * _depth(f)))
    attention, ffn = _heads(f), _experts(f)
    linear = Mixer(kind="linear", heads=attention.heads, kv_heads=attention.heads,
                   head_dim=attention.head_dim, v_head_dim=attention.head_dim,
                   gated_output=True)  # fmt: skip
    parts = ((kinds.get(0, 0), linear), (kinds.get(1, 0), attention))
    return [LayerGroup(count=n, mixer=m, ffn=ffn) for n, m in parts if n > 0], {}


def _mamba2(f: Fields) -> Answer:
    hidden = f.integer("hidden_size", "d_model")
    width = f.integer("head_dim", default=64)
    heads = f.integer("num_heads", default=math.ceil(f.get("expand", default=2) * hidden / width))
    mixer = Mixer(
        kind="ssm", heads=heads, head_dim=width, state=f.integer("state_size", default=128),
        groups=f.integer("n_groups", default=1), conv=f.integer("conv_kernel", default=4),
    )  # fmt: skip
    group = LayerGroup(count=_depth(f), mixer=mixer, ffn=FeedForward(kind="none"), norms=1)
    return [group], {}


def _llama4(f: Fields) -> Answer:
    step = f.integer("interleave_moe_layer_step", default=1)
    depth, inner = _depth(f), f.integer("intermediate_size")
    routed = FeedForward(
        kind="moe", inner=inner, experts=f.integer("num_local_experts"),
        experts_per_token=f.integer("num_experts_per_tok", default=1), shared_inner=inner,
    )  # fmt: skip
    dense = FeedForward(kind="gated", inner=f.integer("intermediate_size_mlp", default=inner))
    mixer, moe = _heads(f), depth // step
    parts = ((depth - moe, dense), (moe, routed))
    return [LayerGroup(count=n, mixer=mixer, ffn=ffn) for n, ffn in parts if n > 0], {}


_READERS: dict[str, Callable[[Fields], Answer]] = {
    **dict.fromkeys(("llama", "mistral", "phi3", "granite", "smollm3", "yi", "internlm2", "olmo",
                     "cohere", "glm"), _llama),
    "chatglm": _qwen2, "glm4": _llama, "qwen2": _qwen2, "qwen3": _qwen3, "mixtral": _mixtral,
    "qwen2_moe": _qwen_moe, "qwen3_moe": _qwen_moe, "qwen3_next": _qwen_next,
    "qwen3_5_moe": _qwen_next, "qwen3_5_moe_text": _qwen_next, "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek, "deepseek_v32": _deepseek, "kimi_k2": _deepseek,
    "glm_moe_dsa": _deepseek,
    "kimi_k25": _deepseek, "glm4_moe": _glm_moe, "gpt_oss": _gpt_oss, "gemma": _gemma,
    "gemma2": _gemma, "gemma3": _gemma, "gemma3_text": _gemma, "gpt2": _gpt2, "opt": _opt,
    "gpt_neox": _neox, "gptj": _gptj, "phi": _phi, "bloom": _bloom, "falcon": _falcon,
    "mpt": _mpt, "bert": _bert, "vit": _vit, "minimax_text_01": _minimax, "minimax": _minimax,
    "mamba2": _mamba2, "llama4": _llama4, "llama4_text": _llama4,
}  # fmt: skip
"""`model_type` -> reader."""
