"""Published training measurements: a step time, a rate or a peak memory of one stated plan."""

from __future__ import annotations

import re
from functools import lru_cache

from attrs import evolve, frozen

from ..errors import InvalidInput, IsoflopError
from ..hardware import Accelerator, Cluster, load_accelerator, load_cluster
from ..models import FeedForward, LayerGroup, Mixer, ModelSpec, load_model
from ..training.compute import Network
from ..training.fleet import network_of
from ..training.memory import usable_bytes, usable_host_bytes
from ..training.plan import Plans, Recipe, TrainingJob, TrainingPlan
from ..training.search import fill_memory
from ..training.utilization import Convention
from .bridge import preset_of, usual_preset
from .case import Case
from .silicon_rows import number

TRAINING_COLUMNS = frozenset(
    [
        "source",
        "model_name",
        "layers",
        "hidden",
        "heads",
        "seq_len",
        "global_batch",
        "micro_batch",
        "tp",
        "pp",
        "dp",
        "cp",
        "ep",
        "gpu",
        "n_gpus",
        "measured_metric",
        "value",
        "note",
    ]
)
SINGLE_NODE_COLUMNS = frozenset(
    [
        "source",
        "n_gpus",
        "global_batch",
        "micro_batch",
        "hidden",
        "heads",
        "layers",
        "seq_len",
        "tp",
        "dp",
        "pp",
        "step_time_s",
    ]
)
METRICS = {
    "step_time_s": ("step_s", 1.0),
    "tokens_per_s": ("training_tokens_per_s", 1.0),
    "tflops_per_gpu": ("flop_per_s_per_device", 1e12),
    "mfu_pct": ("model_flop_utilization", 0.01),
    "mem_gb": ("training_memory_bytes", 2.0**30),
}
GPT2_VOCABULARY = 50_257
TRACED_SOURCE = "vTrain ground_truth_single.csv"
FITTED_SOURCES = (
    'llm-foundry benchmarking/README.md "A100 40GB',
    'llm-foundry benchmarking/README.md "H100 80GB BF16"',
    TRACED_SOURCE,
    "torchtitan benchmarks/llama3_h100_202412",
    "Megatron-Bridge performance-summary-archive.md 25.11",
    "Megatron-Bridge performance-summary-archive.md 26.02",
    "Megatron-Bridge performance-summary-archive.md 26.06@",
    "Megatron-LM images/tables.tex",
    "SimuMax",
)
"""Sources whose rows the calibration sees; every other one is only predicted."""
DEVICES = {
    "a100_80gb": "a100-80gb-sxm", "a100_40gb": "a100-40gb-sxm", "h100_80gb": "h100-sxm",
    "h100": "h100-sxm", "h100_96gb_500w": "h100-96gb", "v100_32gb": "v100-sxm2-32gb",
    "v100_16gb": "v100-sxm2-16gb", "mi250x_gcd": "mi250x-gcd",
}  # fmt: skip
CLUSTERS = {
    "selene": "selene", "dgx a100": "dgx-a100", "dgx-a100": "dgx-a100", "dgx h100": "dgx-h100",
    "dgx-h100": "dgx-h100", "dgx-b200": "dgx-b200", "dgx-b300": "dgx-b300",
    "dgx-gb200": "gb200-nvl72", "dgx-gb300": "gb300-nvl72", "dgx-2": "dgx-2",
    "nvlink5 single node": "dgx-b200",
}  # fmt: skip
NAMED = {
    "nemotron_3_nano": "nemotron-3-nano", "nemotron_3_super": "nemotron-3-super",
    "deepseekv3": "deepseek-v3", "deepseekv2": "deepseek-v2", "qwen3_30b": "qwen3-30b-a3b",
    "qwen3_235b": "qwen3-235b-a22b", "gpt oss 120b": "gpt-oss-120b", "kimi_k2": "kimi-k2",
    "tinyllama": "tinyllama-1.1b",
}  # fmt: skip
"""Architectures that the columns do not describe in full."""
GATED = ("llama", "mistral", "qwen", "gemma")
FORMATS = {
    "fp8": "fp8-e4m3", "fp8-cs": "fp8-e4m3", "fp8-mx": "mxfp8-e4m3", "mxfp8": "mxfp8-e4m3",
    "fp8-sc": "fp8-block", "nvfp4": "nvfp4", "bf16": "bf16", "amp_bf16": "bf16",
    "amp_fp8": "fp8-e4m3",
}  # fmt: skip
FP16_FAMILIES = ("volta", "turing", "pascal")
ADAPTER_FLOP_PER_PARAMETER = 5.0
"""Between the 4 of frozen weights and the 6 of trained ones."""
FUSED_LOGIT_BYTES = 4.0
"""A fused cross-entropy, llm-foundry's default, keeps logits and their gradient in 16 bits."""
TORCHTITAN_LOGIT_BYTES = 14.0
"""Logits in 16 bits, in fp32, their log-softmax and its gradient live at once."""


@frozen(kw_only=True)
class TrainingQuestion:
    """What one row asks.

    Attributes
    ----------
    plans : tuple of TrainingPlan
        More than one where the row leaves a degree unstated: the fastest that fits is meant.
    convention : str
        How the row's source counts FLOP.
    """

    job: TrainingJob
    recipe: Recipe
    plans: tuple[TrainingPlan, ...]
    device: Accelerator
    network: Network
    cluster: Cluster | None = None
    convention: Convention = "model"


def training_case(line: int, row: dict[str, str]) -> Case:
    """One row as a case; what cannot be priced carries its reason."""
    metric, unit = METRICS.get(row["measured_metric"], (row["measured_metric"], 1.0))
    fitted = f"{row['source']}@".startswith(FITTED_SOURCES)  # "@" ends a release's number
    role = "fit" if fitted else "check"
    case = Case(line=line, source=row["source"], metric=metric, role=role,
                measured=number(row["value"]) * unit)  # fmt: skip
    if "THEORETICAL" in row["note"]:
        return evolve(case, reason="a formula, not a measurement")
    if row["measured_metric"] not in METRICS:
        return evolve(case, reason=f"the metric '{metric}' is not one isoflop predicts")
    try:
        return evolve(case, training=_question(row))
    except IsoflopError as error:
        return evolve(case, reason=str(error))


def single_node_case(line: int, row: dict[str, str]) -> Case:
    """One row of a table of small GPT steps on one node of eight A100.

    Its times are linear in layers and micro-batches to fifteen digits: sums of kernel traces of
    single layers by the simulator of the same repository, whose vocabulary of 50,257 is cut, not
    padded, by the tensor degree. Recomputation is not in them: a layer's time per sequence would
    need all of the device's peak rate.
    """
    hidden, stated = row["hidden"], row["tp"].strip()
    tensor = max(int(stated), 1) if stated.isdigit() else 1
    whole = row | {
        "model_name": "GPT", "measured_metric": "step_time_s", "value": row["step_time_s"],
        "gpu": "a100_80gb", "cp": "1", "ep": "1", "note": "", "kv_heads": row["heads"],
        "ffn": str(4 * int(float(hidden))), "vocab": str(GPT2_VOCABULARY // tensor * tensor),
        "recompute": "none",
        "zero_stage": "0", "interconnect": "DGX A100", "sp": "0", "virtual_pp": "1",
    }  # fmt: skip
    return training_case(line, whole)


def _question(row: dict[str, str]) -> TrainingQuestion:
    device = load_accelerator(DEVICES.get(row["gpu"], row["gpu"]))
    count = _whole(row, "n_gpus")
    model = training_model(row)
    batch = _whole(row, "global_batch")
    job = TrainingJob(model=model, global_batch=batch, sequence_tokens=_whole(row, "seq_len"))
    recipe = _recipe(row, device)
    cluster, network = _network(row.get("interconnect", ""), device, count)
    plans = _plans(row, job, recipe, count)
    if recipe.offload_activations:
        filled, _ = fill_memory(job, recipe, Plans.of(plans), usable_bytes(device),
                                host=usable_host_bytes(cluster))  # fmt: skip
        plans = tuple(filled.at(i) for i in range(len(filled)))
    return TrainingQuestion(
        job=job, recipe=recipe, plans=plans, device=device, network=network, cluster=cluster,
        convention=_convention(row),
    )  # fmt: skip


def _whole(row: dict[str, str], name: str, default: int | None = None) -> int:
    text = row.get(name, "")
    if text in ("", "nan"):
        if default is None:
            raise InvalidInput(f"the row does not state {name}")
        return default
    value = number(text)
    if not value >= 0 or value != int(value):
        raise InvalidInput(f"{name} is '{text}', not a whole number")
    return int(value)


def training_model(row: dict[str, str]) -> ModelSpec:
    """The architecture of a row: from the catalog where columns do not suffice, else built."""
    name = row["model_name"].lower()
    layers = _whole(row, "layers", 0)
    for part, catalog_name in NAMED.items():
        if name.replace("-", "").startswith(part.replace("-", "")):
            return _cut(load_model(catalog_name), layers)
    if not layers:
        raise InvalidInput(f"the catalog has no '{row['model_name']}' and the row no layers")
    return _built(
        name.startswith(GATED), layers, _whole(row, "hidden"), _whole(row, "heads"),
        _whole(row, "kv_heads", _whole(row, "heads")),
        _whole(row, "ffn", 4 * _whole(row, "hidden")), _whole(row, "vocab", 51200),
        _whole(row, "seq_len"),
    )  # fmt: skip


@lru_cache(maxsize=256)
def _built(
    gated: bool, layers: int, hidden: int, heads: int, kv_heads: int, inner: int, vocab: int,
    context: int,
) -> ModelSpec:  # fmt: skip
    mixer = Mixer(kind="attention", heads=heads, kv_heads=kv_heads, head_dim=hidden // heads)
    ffn = FeedForward(kind="gated" if gated else "plain", inner=inner)
    return ModelSpec(
        id="row", name=f"{layers} layers of width {hidden}", hidden=hidden, vocab=vocab,
        layers=(LayerGroup(count=layers, mixer=mixer, ffn=ffn),), max_context=context,
        tied_embeddings=not gated, source="row",
    )  # fmt: skip


_CUT: dict[tuple[str, int], ModelSpec] = {}


def _cut(model: ModelSpec, layers: int) -> ModelSpec:
    """The first published benchmarks cut mixture models to their expert layers."""
    if layers in (0, model.depth):
        return model
    key = model.id, layers
    if key not in _CUT:
        group = max(model.layers, key=lambda g: g.count)
        _CUT[key] = evolve(model, layers=(evolve(group, count=layers),), extra_parameters=0)
    return _CUT[key]


def _recipe(row: dict[str, str], device: Accelerator) -> Recipe:
    source, note = row["source"], row["note"]
    match = re.search(r"precision=([\w-]+)", note)
    name = FORMATS.get(match.group(1).lower(), "bf16") if match else "bf16"
    if "float8" in note:
        name = "fp8-e4m3"
    if device.family in FP16_FAMILIES:
        name = "fp16"
    recipe = Recipe(format=name, overlap_data=True)
    early = source.startswith(("vTrain", "Megatron-LM images", "Megatron-LM SC21",
                               "Megatron-LM README cases", "Korthikanti"))  # fmt: skip
    if early:
        fp16 = source.startswith(("vTrain", "Megatron-LM images"))
        traced = source == TRACED_SOURCE
        return evolve(recipe, fused_attention=False, dropout=True, overlap_data=False,
                      look_ahead="ZeRO-3" not in note, traced=traced,
                      padded_vocabulary=not traced,
                      gradient_bytes=2.0 if fp16 else 4.0)  # fmt: skip
    if source.startswith("llm-foundry"):
        pure = "mp=PURE" in note
        return evolve(
            recipe, compiled=False, older_attention=True, gradient_bytes=2.0 if pure else 4.0,
            logit_bytes=FUSED_LOGIT_BYTES,
        )  # fmt: skip
    if source.startswith("torchtitan"):
        return evolve(
            recipe, compiled="eager" not in note and "performance.md" not in source,
            older_attention=True,
            overlap_tensor="AsyncTP" in note, logit_bytes=TORCHTITAN_LOGIT_BYTES,
            stage_buffers=True, context="all-gather", repeated_keys=True, gathered_inputs=True,
        )  # fmt: skip
    if "model_table" in source or "Bridge" in source:
        recipe = evolve(recipe, overlap_tensor=True, adapters=_adapters(row),
                        fixed_capacity="tokendrop" in row["model_name"])  # fmt: skip
        return _bridge_recipe(recipe, row) if "Bridge" in source else recipe
    return recipe


def _bridge_recipe(recipe: Recipe, row: dict[str, str]) -> Recipe:
    """What Megatron-Bridge's published benchmark configurations set beyond the table's columns.

    Gradients are held and reduced in bf16; mixtures keep Adam's moments in bf16; Transformer
    Engine keeps narrow inputs; sharded (FSDP) runs keep activations of some layers in host memory;
    the rest is the preset's.
    """
    model = training_model(row)
    latent = any(g.mixer.kind == "mla" for g in model.layers)
    routed = any(g.ffn.kind == "moe" for g in model.layers)
    preset = preset_of(row) or usual_preset(row, latent)
    return evolve(
        recipe, gradient_bytes=2.0, narrow_activations=True,
        optimizer="adam16" if routed else "adam", fused_exchange=preset.fused,
        overlap_expert=preset.overlap, graphs=preset.graphs, recompute_modules=preset.modules,
        offload_activations=_whole(row, "zero_stage", 1) == 3,
    )  # fmt: skip


def _adapters(row: dict[str, str]) -> bool:
    """Whether a row is a LoRA run: by name, or by four instead of six FLOP per parameter.

    The source states FLOP and tokens per second; their quotient is its formula, not a timing.
    """
    note = row["note"]
    if re.search(r"\blora\b", note + " " + row["model_name"], re.I):
        return True
    patterns = (r"tok/s/GPU=([\d.]+)", r"modelTFLOP/GPU=([\d.]+)")
    rate, flop = (re.search(p, note) for p in patterns)
    if not (rate and flop) or not row["model_name"].lower().startswith("llama"):
        return False
    per_token = float(flop.group(1)) * 1e12 / float(rate.group(1))
    return per_token < ADAPTER_FLOP_PER_PARAMETER * training_model(row).compute_parameters


def _network(text: str, device: Accelerator, count: int) -> tuple[Cluster | None, Network]:
    """The links a row states: a cluster by name, or adapters by rate."""
    low = text.lower()
    name = next((v for k, v in CLUSTERS.items() if low.startswith(k)), None)
    cluster = load_cluster(name) if name else None
    if cluster is not None and cluster.accelerator != device.id and "selene" not in low:
        same = load_accelerator(cluster.accelerator).family == device.family
        cluster = cluster if same else None
    network = network_of(device, cluster, count)
    rate = None
    if match := re.search(r"(\d+)\s*gbps/node", low):
        rate = float(match.group(1)) / 8 / 8
    elif match := re.search(r"(\d+)\s*gb/s per gpu", low):
        rate = float(match.group(1)) / 8
    if rate is not None:
        network = evolve(network, node=8, outer_bytes_per_s=rate * 1e9)
    return cluster, network


def _plans(
    row: dict[str, str], job: TrainingJob, recipe: Recipe, count: int
) -> tuple[TrainingPlan, ...]:
    tp, pp, cp = (_whole(row, k, 1) for k in ("tp", "pp", "cp"))
    ep = _whole(row, "ep", 1)
    dp = _whole(row, "dp", max(1, count // (tp * pp * cp)))
    if tp * pp * cp * dp != count:
        dp = max(1, count // (tp * pp * cp))
    zero = _whole(row, "zero_stage", 1)
    per_replica = job.global_batch / dp
    if per_replica != int(per_replica):
        raise InvalidInput(f"a batch of {job.global_batch} does not divide over {dp} replicas")
    stated = row.get("micro_batch", "")
    micro = [int(number(stated))] if stated not in ("", "nan") else [1, 2, 4, 8, 16]
    if "mb size assumed" in row["note"] and pp > 1 and per_replica % pp == 0:
        micro = [int(per_replica) // pp]  # the framework's default: as many as stages
    micro = [m for m in micro if per_replica % m == 0]
    depth = job.model.depth
    virtual = row.get("virtual_pp", "")
    if virtual not in ("", "nan"):
        chunks = [int(number(virtual))] if pp > 1 else [1]
    else:
        per_stage = -(-depth // pp)
        chunks = [v for v in (1, 2, 3, 4) if pp > 1 and depth % (pp * v) == 0] or [1]
        chunks = [v for v in chunks if v <= per_stage]
    mode = row.get("recompute", "")
    if mode in ("", "nan"):
        # These recipes avoid recomputation, or repeat cheap modules only.
        modes = ["none"]
    elif mode == "selective" and row["source"].startswith("torchtitan"):
        modes = ["alternate"]
    else:
        modes = [mode]
    sp = _whole(row, "sp", 0) == 1 or "model_table" in row["source"]
    if not micro:
        raise InvalidInput(f"a micro-batch of {stated} does not divide {per_replica:.0f} sequences")
    return tuple(
        TrainingPlan(
            tensor=tp, pipeline=pp, data=dp, context=cp, expert=ep, micro_batch=m, virtual=v,
            zero=zero, recompute=r,  # type: ignore[arg-type]
            sequence_parallel=sp and tp > 1,
            schedule="interleaved" if v > 1 else "1f1b",
        )  # type: ignore[arg-type]
        for m in micro for v in chunks for r in modes
    )  # fmt: skip


def _convention(row: dict[str, str]) -> Convention:
    """SC21 counts recomputation (its equation 3); later tables model FLOP with whole attention."""
    source = row["source"]
    if "SC21" in source or "HFU-style" in row["note"]:
        return "megatron-2021"
    if source.startswith(("Megatron-LM", "Korthikanti")):
        return "megatron-model"
    return "model"
