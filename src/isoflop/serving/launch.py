"""The command lines that start a configuration in the usual engines."""

from __future__ import annotations

from ..plans import Formats
from .curve import Candidate


def _name(c: Candidate) -> str:
    return c.step.model.hf_id or "MODEL"


def commands(candidate: Candidate, longest: int) -> dict[str, str]:
    """Command lines by engine for one replica of `candidate`; for a split, of both pools.

    Flags as documented by vLLM 0.19 (`vllm serve`), SGLang 0.5 (`sglang.launch_server`) and
    TensorRT-LLM 1.0 (`trtllm-serve`, whose options file also holds in later releases). Of a split
    the first instance of each pool is written out, then what stands in front of them: vLLM's NIXL
    connector and proxy, SGLang's router, TensorRT-LLM's disaggregated server. Further instances
    take ports, and on one host side channels, of their own.
    """
    if candidate.prefills:
        return _split(candidate, longest)
    return {
        "vLLM": _vllm(candidate, longest),
        "SGLang": _sglang(candidate, longest),
        "TensorRT-LLM": _trtllm(candidate, longest),
    }


POOLS = (("prefill", 8100), ("decode", 8200))


def _split(c: Candidate, longest: int) -> dict[str, str]:
    counts = (c.prefills, c.decodes)
    ports = [[first + i for i in range(n)] for (_, first), n in zip(POOLS, counts)]
    return {
        "vLLM": _vllm_split(c, longest, ports),
        "SGLang": _sglang_split(c, longest, ports),
        "TensorRT-LLM": _trtllm_split(c, longest, ports),
    }


def _of(pool: str, count: int) -> str:
    return f"  # {pool}, {count} instance{'s' if count > 1 else ''}"


def _vllm_split(c: Candidate, longest: int, ports: list[list[int]]) -> str:
    config = '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'
    lines = [
        f"VLLM_NIXL_SIDE_CHANNEL_PORT={5600 + 100 * i} {_vllm(c, longest)} --port {mine[0]} "
        f"--kv-transfer-config '{config}'{_of(pool, len(mine))}"
        for i, ((pool, _), mine) in enumerate(zip(POOLS, ports))
    ]
    sides = " ".join(
        f"--{side}-hosts {' '.join(['localhost'] * len(mine))} "
        f"--{side}-ports {' '.join(map(str, mine))}"
        for side, mine in zip(("prefiller", "decoder"), ports)
    )
    proxy = "tests/v1/kv_connector/nixl_integration/toy_proxy_server.py"
    return "\n".join([*lines, f"python {proxy} --port 8000 {sides}"])


def _sglang_split(c: Candidate, longest: int, ports: list[list[int]]) -> str:
    lines = [
        f"{_sglang(c, longest)} --disaggregation-mode {pool} "
        f"--disaggregation-transfer-backend nixl --port {mine[0]}{_of(pool, len(mine))}"
        for (pool, _), mine in zip(POOLS, ports)
    ]
    sides = " ".join(f"--{pool} http://127.0.0.1:{port}"
                     for (pool, _), mine in zip(POOLS, ports) for port in mine)  # fmt: skip
    router = f"python -m sglang_router.launch_router --pd-disaggregation {sides} --port 8000"
    return "\n".join([*lines, router])


def _trtllm_split(c: Candidate, longest: int, ports: list[list[int]]) -> str:
    cache = "cache_transceiver_config: {backend: DEFAULT}"
    options = (("disable_overlap_scheduler: true", cache), (cache,))
    lines = [
        f"{_trtllm(c, longest, *more, port=mine[0])}{_of(pool, len(mine)).replace('  #', ';')}"
        for (pool, _), mine, more in zip(POOLS, ports, options)
    ]
    pools = "; ".join(
        f"{name}: {{num_instances: {len(mine)}, urls: ["
        + ", ".join(f'"localhost:{port}"' for port in mine) + "]}"
        for name, mine in zip(("context_servers", "generation_servers"), ports)
    )  # fmt: skip
    front = "trtllm-serve disaggregated -c split.yaml  # hostname: localhost; port: 8000; "
    return "\n".join([*lines, front + pools])


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
    # Whole names: `--pp` alone is the beginning of three of its options and refused.
    parts = [f"python -m sglang.launch_server --model-path {_name(c)}",
             f"--tp-size {p.tensor * p.data}"]  # fmt: skip
    if p.data > 1:
        parts.append(f"--dp-size {p.data} --enable-dp-attention")
    if p.expert > 1:
        parts.append(f"--ep-size {p.expert}")
    if p.pipeline > 1:
        parts.append(f"--pp-size {p.pipeline}")
    if _requantized(c):
        parts.append("--quantization fp8")
    if _narrow(f.kv):
        parts.append("--kv-cache-dtype fp8_e4m3")
    parts += [
        f"--max-running-requests {c.max_sequences}", f"--chunked-prefill-size {c.max_tokens}",
        f"--context-length {longest}", f"--mem-fraction-static {_utilization(c)}",
    ]  # fmt: skip
    return " ".join(parts)


def _trtllm(c: Candidate, longest: int, *options: str, port: int = 0) -> str:
    p, f = c.step.plan, c.step.plan.formats
    parts = [f"trtllm-serve {_name(c)}", f"--tp_size {p.tensor * p.data}"]
    if p.expert > 1:
        parts.append(f"--ep_size {p.expert}")
    if p.pipeline > 1:
        parts.append(f"--pp_size {p.pipeline}")
    parts += [
        f"--max_batch_size {max(1, c.max_sequences // p.data)}",
        f"--max_num_tokens {c.max_tokens}", f"--max_seq_len {longest}",
    ]  # fmt: skip
    if port:
        parts.append(f"--port {port}")
    # The file's kv_cache_config replaces the command line's, so all of it stands there.
    cache = f"free_gpu_memory_fraction: {_utilization(c)}" + (
        ", dtype: fp8" if _narrow(f.kv) else ""
    )
    extra = ["enable_chunked_prefill: true", f"kv_cache_config: {{{cache}}}", *options]
    if p.data > 1:
        extra.append("enable_attention_dp: true")
    parts.append(f"--extra_llm_api_options options.yaml  # {'; '.join(extra)}")
    return " ".join(parts)
