"""What Megatron-Bridge's published benchmark configurations set beside the columns of its tables.

From the repository's `scripts/performance/configs` (workload presets of each model, by device,
precision and version). Which release ran which version is told by the plan of the row: presets
whose degrees and micro-batch are the row's. Releases before 26.02 had others, not all of which were
found. Of Qwen3 in 8 bits no preset of 26.06 was found: at the plans of 26.04 it gained 40% and
more, and is taken to replay whole iterations as the two models do whose presets say so.
"""

from __future__ import annotations

import re

from attrs import evolve, frozen

from ..training.plan import Graphs, Module

GRACE = ("gb200", "gb300")
LAYOUT_CHANGE, FUSED_PRODUCTS = 26.02, 26.06
"""Releases from which the presets hold, and from which mixtures have a fused dispatcher and 8-bit
runs replay whole iterations."""


@frozen(kw_only=True)
class Preset:
    """Settings of one model on some devices.

    Attributes
    ----------
    fused : bool
        Whether one kernel dispatches tokens (DeepEP, HybridEP).
    overlap : bool
        Whether the exchange of tokens runs beside compute.
    """

    fused: bool = False
    overlap: bool = False
    graphs: Graphs = "none"
    modules: tuple[Module, ...] = ()


MEMORY_SAVING: tuple[Module, ...] = ("layernorm", "core_attn", "moe_act")
PRESETS: dict[str, dict[str, Preset]] = {
    "qwen3_30b": {
        "h100": Preset(fused=True),
        "*": Preset(fused=True, graphs="layers"),
    },
    "qwen3_235b": {
        "h100": Preset(overlap=True),
        "gb": Preset(fused=True, graphs="layers"),
        "*": Preset(),
    },
    "deepseekv3": {
        "h100": Preset(fused=True, modules=("mla_up_proj", "mlp")),
        "gb200": Preset(fused=True, graphs="layers", modules=("mla_up_proj",)),
        "*": Preset(fused=True, modules=("mla_up_proj",)),
    },
    "kimi_k2": {"*": Preset(fused=True, modules=("mla_up_proj",))},
    "gpt oss 120b": {
        "gb300": Preset(graphs="layers"),
        "b300": Preset(fused=True, graphs="layers"),
        "*": Preset(modules=("layernorm", "moe_act")),
    },
    "nemotron_3_nano": {
        "h100": Preset(fused=True, modules=("layernorm", "core_attn", "moe")),
        "*": Preset(fused=True, graphs="layers"),
    },
    "nemotron_3_super": {
        "gb200": Preset(fused=True, modules=("layernorm", "core_attn", "moe")),
        "b200": Preset(fused=True, modules=MEMORY_SAVING),
        "*": Preset(fused=True, graphs="layers"),
    },
}
"""By model and device; "gb" stands for both Grace Blackwell devices, "*" for what is not named."""
WHOLE_ITERATIONS = Preset(fused=True, overlap=True, graphs="iteration")
"""8-bit runs from 26.06 on of the models and devices below."""
WHOLE = {
    "deepseekv3": GRACE, "gpt oss 120b": GRACE, "qwen3_235b": GRACE, "qwen3_30b": (*GRACE, "b300")
}  # fmt: skip
BY_PLAN: dict[tuple[str, str, str, int], Preset | None] = {
    # Eight stages from 26.04.01 on.
    ("deepseekv3", "b200", "pp", 8): Preset(
        fused=True, overlap=True, graphs="layers", modules=("mla_up_proj", "mlp")
    ),
    ("deepseekv3", "b300", "pp", 8): Preset(fused=True, graphs="layers", modules=("mla_up_proj",)),
    # Experts over all devices in 26.02.
    ("gpt oss 120b", "b300", "ep", 64): Preset(graphs="layers"),
    # A micro-batch of one in 26.02, of a preset that was not found.
    ("qwen3_30b", "b200", "micro_batch", 1): None,
}
"""By model, device and a degree of the plan."""


def release(source: str) -> float | None:
    """The release that a row's source names."""
    match = re.search(r"(\d\d\.\d\d)(\.\d+)?$", source)
    return float(match.group(1)) if match else None


def usual_preset(row: dict[str, str], latent: bool) -> Preset:
    """What to take where no preset is known: the exchange overlaps, by a fused dispatcher for
    models with latent attention and for all from 26.06 on; up projections are computed again."""
    number = release(row["source"])
    fused = number is not None and (latent or number >= FUSED_PRODUCTS)
    return Preset(fused=fused, overlap=True, modules=("mla_up_proj",) if latent else ())


def preset_of(row: dict[str, str]) -> Preset | None:
    """The preset a row of a mixture was run with; None where none is known."""
    name, gpu = row["model_name"].lower(), row["gpu"].split("_")[0]
    number = release(row["source"])
    model = next((m for m in PRESETS if name.startswith(m)), None)
    if model is None or number is None or number < LAYOUT_CHANGE:
        return None
    narrow = "bf16" not in row["note"].lower().split("precision=")[-1][:5]
    if number >= FUSED_PRODUCTS and gpu in WHOLE.get(model, ()) and narrow:
        again: tuple[Module, ...] = (
            ("mla_up_proj",) if (model, gpu) == ("deepseekv3", "gb200") else ()
        )
        return evolve(WHOLE_ITERATIONS, modules=again)
    for (name, device, degree, size), preset in BY_PLAN.items():
        stated = row.get(degree, "")
        if (name, device) == (model, gpu) and stated not in ("", "nan") and float(stated) == size:
            return preset
    known = PRESETS[model]
    family = "gb" if gpu in GRACE else gpu
    return known.get(gpu) or known.get(family) or known.get("*")
