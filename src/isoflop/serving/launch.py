"""The command lines that start a configuration in the usual engines."""

from __future__ import annotations

from ..plans import Formats
from .candidates import Candidate


def _name(c: Candidate) -> str:
    return c.step.model.hf_id or "MODEL"


def commands(candidate: Candidate, longest: int) -> dict[str, str]:
    """Command lines by engine for one replica of `candidate`; for a split, one of each pool.

    Flags as documented by vLLM 0.19 (`vllm serve`), SGLang 0.5 (`sglang.launch_server`) and
    TensorRT-LLM 1.0 (`trtllm-serve`). Caches travel by vLLM's NIXL connector, SGLang's
    disaggregation mode and TensorRT-LLM's cache transceiver; each needs its router in front.
    """
    if candidate.prefills:
        return _split(candidate, longest)
    return {
        "vLLM": _vllm(candidate, longest),
        "SGLang": _sglang(candidate, longest),
        "TensorRT-LLM": _trtllm(candidate, longest),
    }


def _split(c: Candidate, longest: int) -> dict[str, str]:
    config = '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'
    vllm = f"{_vllm(c, longest)} --kv-transfer-config '{config}'"
    trtllm = _trtllm(c, longest, "cache_transceiver_config: {backend: DEFAULT}")
    return {
        "vLLM": "\n".join(f"{vllm}  # {pool}" for pool in ("prefill", "decode")),
        "SGLang": "\n".join(f"{_sglang(c, longest)} --disaggregation-mode {pool}"
                            for pool in ("prefill", "decode")),
        "TensorRT-LLM": "\n".join((
            _trtllm(c, longest, "disable_overlap_scheduler: true; cache_transceiver_config: "
                    "{backend: DEFAULT}") + "; context server",
            f"{trtllm}; generation server",
        )),
    }  # fmt: skip


def _narrow(fmt: str) -> bool:
    return fmt.startswith("fp8")


def _requantized(c: Candidate) -> bool:
    """Whether the engine narrows the weights on load: a checkpoint published so needs no flag."""
    f, published = c.step.plan.formats, Formats.for_model(c.step.model)
    return _narrow(f.weights) and f.weights != published.weights


def _utilization(c: Candidate) -> float:
    return round(0.9 / c.share, 2)


def _vllm(c: Candidate, longest: int) -> str:
    p, f = c.step.plan, c.step.plan.formats
    parts = [f"vllm serve {_name(c)}", f"--tensor-parallel-size {p.tensor}"]
    if p.data > 1:
        parts.append(f"--data-parallel-size {p.data}")
    if p.pipeline > 1:
        parts.append(f"--pipeline-parallel-size {p.pipeline}")
    if p.expert > 1:
        parts.append("--enable-expert-parallel")
    if _requantized(c):
        parts.append("--quantization fp8")
    if _narrow(f.kv):
        parts.append("--kv-cache-dtype fp8")
    parts += [
        f"--max-num-seqs {max(1, c.max_sequences // p.data)}",
        f"--max-num-batched-tokens {c.max_tokens}",
        f"--max-model-len {longest}", f"--gpu-memory-utilization {_utilization(c)}",
    ]  # fmt: skip
    return " ".join(parts)


def _sglang(c: Candidate, longest: int) -> str:
    p, f = c.step.plan, c.step.plan.formats
    parts = [f"python -m sglang.launch_server --model-path {_name(c)}", f"--tp {p.tensor * p.data}"]
    if p.data > 1:
        parts.append(f"--dp {p.data} --enable-dp-attention")
    if p.expert > 1:
        parts.append(f"--ep {p.expert}")
    if p.pipeline > 1:
        parts.append(f"--pp {p.pipeline}")
    if _requantized(c):
        parts.append("--quantization fp8")
    if _narrow(f.kv):
        parts.append("--kv-cache-dtype fp8_e4m3")
    parts += [
        f"--max-running-requests {c.max_sequences}", f"--chunked-prefill-size {c.max_tokens}",
        f"--context-length {longest}", f"--mem-fraction-static {_utilization(c)}",
    ]  # fmt: skip
    return " ".join(parts)


def _trtllm(c: Candidate, longest: int, *options: str) -> str:
    p, f = c.step.plan, c.step.plan.formats
    parts = [f"trtllm-serve {_name(c)}", f"--tp_size {p.tensor * p.data}"]
    if p.expert > 1:
        parts.append(f"--ep_size {p.expert}")
    if p.pipeline > 1:
        parts.append(f"--pp_size {p.pipeline}")
    parts += [
        f"--max_batch_size {max(1, c.max_sequences // p.data)}",
        f"--max_num_tokens {c.max_tokens}", f"--max_seq_len {longest}",
        f"--kv_cache_free_gpu_memory_fraction {_utilization(c)}",
    ]  # fmt: skip
    extra = list(options)
    if p.data > 1:
        extra.append("enable_attention_dp: true")
    if _narrow(f.kv):
        extra.append("kv_cache_config: {dtype: fp8}")
    if extra:
        parts.append(f"--extra_llm_api_options options.yaml  # {'; '.join(extra)}")
    return " ".join(parts)
