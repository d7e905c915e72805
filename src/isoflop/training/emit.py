"""Settings of a plan for the frameworks that run it: Megatron-LM, torchtitan, DeepSpeed."""

from __future__ import annotations

import json
from itertools import groupby

from ..errors import InvalidInput
from .chunks import chunk_list
from .plan import Recipe, TrainingJob, TrainingPlan

FRAMEWORKS = ("megatron", "torchtitan", "deepspeed")


def emit(framework: str, job: TrainingJob, recipe: Recipe, plan: TrainingPlan) -> str:
    """Settings as the framework reads them: arguments, TOML or JSON.

    Raises
    ------
    InvalidInput
        If the framework is not one of FRAMEWORKS, or has no setting for a part of the plan.
    """
    writers = {"megatron": _megatron, "torchtitan": _torchtitan, "deepspeed": _deepspeed}
    if framework not in writers:
        raise InvalidInput(
            f"The framework is '{framework}'; settings exist for {', '.join(FRAMEWORKS)}."
        )
    if plan.offload_layers:
        raise InvalidInput(
            f"No setting of {framework}'s command line or file is known here for activations in "
            "host memory (Megatron-Core: cpu_offloading and cpu_offloading_num_layers of its "
            "TransformerConfig, without a pipeline); leave offload out and set it by hand."
        )
    if plan.offload_weights != "none" and framework != "deepspeed":
        raise InvalidInput(
            f"No setting of {framework} is known here for weights in {plan.offload_weights} "
            "memory; leave weights out of the plan, or emit for deepspeed."
        )
    if recipe.recompute_modules and framework != "megatron":
        raise InvalidInput(
            f"{framework} has no setting for {', '.join(recipe.recompute_modules)} alone; leave "
            "--recompute-modules out, or emit for megatron."
        )
    if recipe.graphs != "none" and framework != "megatron":
        raise InvalidInput(
            f"No setting of {framework} is known here for CUDA graphs; leave --cuda-graphs out, or "
            "emit for megatron."
        )
    return writers[framework](job, recipe, plan)


def _megatron(job: TrainingJob, recipe: Recipe, plan: TrainingPlan) -> str:
    """Command-line arguments of Megatron-LM's pretrain scripts."""
    if plan.schedule not in ("1f1b", "interleaved"):
        raise InvalidInput(
            f"Megatron-LM runs 1F1B and interleaved schedules, not {plan.schedule}; name a plan "
            "with one of them."
        )
    args = [
        f"--tensor-model-parallel-size {plan.tensor}",
        f"--pipeline-model-parallel-size {plan.pipeline}",
        f"--context-parallel-size {plan.context}",
        f"--micro-batch-size {plan.micro_batch}",
        f"--global-batch-size {job.global_batch}",
        f"--seq-length {job.sequence_tokens}",
    ]
    if plan.expert > 1:
        args += [f"--expert-model-parallel-size {plan.expert}",
                 f"--expert-tensor-parallel-size {plan.expert_tensor}"]  # fmt: skip
    args += _megatron_stages(job, plan)
    args += _megatron_order(plan)
    if plan.sequence_parallel:
        args.append("--sequence-parallel")
    if plan.zero in (1, 2):
        args.append("--use-distributed-optimizer")
        args += ["--overlap-grad-reduce", "--overlap-param-gather"] if recipe.overlap_data else []
    elif plan.zero == 3:
        args += ["--use-torch-fsdp2"]
    if plan.recompute == "full":
        args += ["--recompute-granularity full", "--recompute-method uniform",
                 "--recompute-num-layers 1"]  # fmt: skip
    elif plan.full_layers and plan.recompute == "none":
        args += ["--recompute-granularity full", "--recompute-method block",
                 f"--recompute-num-layers {plan.full_layers}"]  # fmt: skip
    elif plan.full_layers:
        raise InvalidInput(
            "Megatron-LM recomputes some layers whole beside no recomputation, not beside the "
            f"selective kind; leave selective out of {plan.describe()}."
        )
    args += _megatron_selective(recipe, plan)
    if plan.context > 1:
        kinds = {"ring": "p2p", "all-gather": "allgather", "ulysses": "a2a"}
        args.append(f"--cp-comm-type {kinds[recipe.context]}")
    args += _megatron_recipe(recipe)
    args += _megatron_graphs(job, recipe)
    args += ["--tp-comm-overlap"] if recipe.overlap_tensor and plan.tensor > 1 else []
    if recipe.overlap_expert and plan.expert > 1:
        args.append("--overlap-moe-expert-parallel-comm")
    return " \\\n  ".join(args)


def _megatron_selective(recipe: Recipe, plan: TrainingPlan) -> list[str]:
    """Modules computed again, of which the attention core is the default one."""
    whole = plan.recompute == "full" or plan.full_layers > 0
    if whole and recipe.recompute_modules:
        raise InvalidInput(
            "Megatron-LM recomputes whole layers or single modules, not both; leave one out of the "
            "plan or --recompute-modules empty."
        )
    core = ["core_attn"] if plan.recompute in ("selective", "alternate") else []
    modules = [*core, *recipe.recompute_modules]
    if whole or not modules:
        return []
    args = ["--recompute-granularity selective"]
    return args + ([f"--recompute-modules {' '.join(modules)}"] if recipe.recompute_modules else [])


def _megatron_graphs(job: TrainingJob, recipe: Recipe) -> list[str]:
    """Which launches CUDA graphs replay: parts of layers, or an iteration."""
    if recipe.graphs == "none":
        return []
    if recipe.graphs == "iteration":
        return ["--cuda-graph-impl local --cuda-graph-scope full_iteration"]
    routed = any(g.ffn.kind == "moe" for g in job.model.layers)
    state = any(g.mixer.kind in ("ssm", "linear") for g in job.model.layers)
    parts = ["attn", *(["mamba"] if state else []),
             *(["moe_router", "moe_preprocess"] if routed else ["mlp"])]  # fmt: skip
    return [f"--cuda-graph-impl transformer_engine --cuda-graph-scope {' '.join(parts)}"]


def _megatron_recipe(recipe: Recipe) -> list[str]:
    """Formats and optimizer; formats of 8 and 4 bits come on top of bf16."""
    formats = {
        "fp16": ["--fp16"], "bf16": ["--bf16"],
        "fp8-e4m3": ["--bf16", "--fp8-format e4m3"],
        "mxfp8-e4m3": ["--bf16", "--fp8-format e4m3", "--fp8-recipe mxfp8"],
    }  # fmt: skip
    if recipe.format not in formats:
        raise InvalidInput(
            f"Settings of Megatron-LM are known here for {', '.join(formats)}, not for "
            f"{recipe.format}; set it by hand."
        )
    if recipe.optimizer not in ("adam", "adam16", "sgd") or recipe.offload == "nvme":
        what = f"state on {recipe.offload}" if recipe.offload == "nvme" else recipe.optimizer
        raise InvalidInput(
            f"No setting of Megatron-LM for {what} is known here; use adam, adam16 or sgd, on the "
            "device or offloaded to the CPU."
        )
    args = [*formats[recipe.format], f"--optimizer {recipe.optimizer.removesuffix('16')}"]
    if recipe.optimizer == "adam16":
        args.append("--use-precision-aware-optimizer --exp-avg-dtype bf16 --exp-avg-sq-dtype bf16")
    args += ["--optimizer-cpu-offload"] if recipe.offload == "cpu" else []
    narrow = recipe.exchange == "bf16" or (not recipe.exchange and recipe.gradient_bytes <= 2.0)
    args += ["--grad-reduce-in-bf16"] if narrow else []
    return args


def _megatron_stages(job: TrainingJob, plan: TrainingPlan) -> list[str]:
    """Chunks and layers of the pipeline.

    The framework spreads layers evenly, embedding and loss counted as one each if asked; or spreads
    them evenly between a first and a last stage of stated size; all else is a layout.
    """
    if plan.pipeline == 1:
        return []
    chunks = chunk_list(plan, job.model.depth)
    middle, v = set(chunks[1:-1]), plan.virtual
    several = [f"--num-layers-per-virtual-pipeline-stage {max(chunks)}"] if v > 1 else []
    if len(set(chunks)) == 1:
        return several
    if not plan.uneven and len(middle) == 1 and chunks[0] == chunks[-1] == max(middle) - 1:
        counted = "--account-for-{}-in-pipeline-split"
        return [*several, counted.format("embedding"), counted.format("loss")]
    if v == 1 and len(middle) <= 1:
        return [f"--decoder-first-pipeline-num-layers {chunks[0]}",
                f"--decoder-last-pipeline-num-layers {chunks[-1]}"]  # fmt: skip
    return [f'--pipeline-model-parallel-layout "{_megatron_layout(chunks)}"']


def _megatron_layout(chunks: list[int]) -> str:
    """Layers of every chunk as Megatron-Core reads them: E embedding, t a layer, L loss."""
    held = ["E" + _repeated("t", chunks[0]), *(_repeated("t", n) for n in chunks[1:-1])]
    out = ""
    for body, run in groupby(held):
        count = len(list(run))
        out += _repeated(f"({body}|)", count) if count > 1 else f"{body}|"
    return out + _repeated("t", chunks[-1]) + "L"


def _repeated(part: str, count: int) -> str:
    return f"{part}*{count}" if count > 2 else part.strip("()") * count


def _megatron_order(plan: TrainingPlan) -> list[str]:
    """The order of ranks, where it is not the default.

    Ranks of experts and of attention are numbered apart, experts' without context; stages lie in
    the same places in both only where as many ranks come before them (Megatron-Core's
    `initialize_model_parallel` refuses others).
    """
    if plan.placement == "data-inside":
        return []
    inner = plan.expert * plan.expert_tensor if plan.expert > 1 else plan.tensor
    if inner != plan.tensor * plan.context:
        raise InvalidInput(
            "Megatron-LM places pipeline stages inside nodes only where expert x expert tensor "
            f"ranks are as many as tensor x context ranks; {plan.describe()} has {inner} and "
            f"{plan.tensor * plan.context}. Use --placement data-inside."
        )
    return ["--use-tp-pp-dp-mapping"]


def _torchtitan(job: TrainingJob, recipe: Recipe, plan: TrainingPlan) -> str:
    """A torchtitan job file.

    Its FSDP shards weights, gradients and state together; ZeRO 1 and 2 are nearest where weights
    stay gathered after the forward pass. Without a pipeline the local batch is a micro-batch, and
    the global batch says how many are accumulated.
    """
    if plan.placement != "data-inside":
        raise InvalidInput(
            "torchtitan's mesh has data ranks inside pipeline stages; use --placement data-inside."
        )
    names = {"1f1b": "1F1B", "interleaved": "Interleaved1F1B", "gpipe": "GPipe",
             "zero-bubble": "ZBVZeroBubble", "dualpipe": "DualPipeV"}  # fmt: skip
    sharded = plan.zero > 0
    kept = "always" if plan.zero == 3 else "never"
    local = plan.micro_batch if plan.pipeline == 1 else job.global_batch // plan.data
    shard = plan.shard or plan.data * plan.context
    shard = max(1, shard // plan.context) if sharded else 1
    mode = {"none": "none", "full": "full"}.get(plan.recompute, "selective")
    lines = [
        "[training]",
        f"local_batch_size = {local}",
        f"global_batch_size = {job.global_batch}",
        f"seq_len = {job.sequence_tokens}",
        "", "[parallelism]",
        f"data_parallel_replicate_degree = {plan.data // shard}",
        f"data_parallel_shard_degree = {shard}",
        *([f'fsdp_reshard_after_forward = "{kept}"'] if sharded else []),
        f"tensor_parallel_degree = {plan.tensor}",
        f"context_parallel_degree = {plan.context}",
        f"pipeline_parallel_degree = {plan.pipeline}",
    ]  # fmt: skip
    if plan.context > 1:
        if recipe.context == "ulysses":
            raise InvalidInput(
                "torchtitan exchanges keys and values by ring or all-gather, not by ulysses; name "
                "one of the two with --context."
            )
        kind = {"ring": "alltoall", "all-gather": "allgather"}[recipe.context]
        lines.append(f'context_parallel_rotate_method = "{kind}"')
    if plan.pipeline > 1:
        lines += [f'pipeline_parallel_schedule = "{names[plan.schedule]}"',
                  f"pipeline_parallel_microbatch_size = {plan.micro_batch}"]  # fmt: skip
    if plan.expert > 1:
        lines.append(f"expert_parallel_degree = {plan.expert}")
    lines += ["", "[activation_checkpoint]", f'mode = "{mode}"']
    lines += ['selective_ac_option = "op"'] if mode == "selective" else []
    lines += ["", "[compile]", f"enable = {str(recipe.compiled).lower()}"]
    return "\n".join(lines) + "\n"


def _deepspeed(job: TrainingJob, recipe: Recipe, plan: TrainingPlan) -> str:
    """A DeepSpeed configuration.

    Tensor and pipeline degrees and the order of ranks are set where the model is built, as the
    `topology` of its PipelineModule (axes pipe, data, model; pipeline-inside: data, pipe, model).
    """
    if plan.context > 1 and recipe.context != "ulysses":
        raise InvalidInput(
            f"DeepSpeed splits sequences by heads alone, not by {recipe.context}; name a plan "
            "without cp, or --context ulysses."
        )
    zero: dict[str, object] = {"stage": plan.zero, "overlap_comm": recipe.overlap_data}
    if plan.shard and plan.zero == 3:
        zero["zero_hpz_partition_size"] = plan.shard
    zero.update(_deepspeed_offload(recipe, plan))
    steps = job.global_batch // (plan.data * plan.micro_batch)
    config: dict[str, object] = {
        "train_batch_size": job.global_batch,
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": steps,
        "zero_optimization": zero,
        "fp16" if recipe.format == "fp16" else "bf16": {"enabled": True},
    }
    return json.dumps(config, indent=2) + "\n"


def _deepspeed_offload(recipe: Recipe, plan: TrainingPlan) -> dict[str, object]:
    """Where DeepSpeed keeps optimizer state and weights; a path of drives is the user's to set."""
    if recipe.offload != "none" and plan.zero < (3 if recipe.offload == "nvme" else 2):
        raise InvalidInput(
            f"DeepSpeed keeps optimizer state on {recipe.offload} under ZeRO "
            f"{'3' if recipe.offload == 'nvme' else '2 or 3'}, not under ZeRO {plan.zero}. Name a "
            "plan with that stage."
        )
    places = {"offload_optimizer": recipe.offload, "offload_param": plan.offload_weights}
    return {
        name: {"device": place, "pin_memory": True}
        | ({"nvme_path": "/local_nvme"} if place == "nvme" else {})
        for name, place in places.items() if place != "none"
    }  # fmt: skip
