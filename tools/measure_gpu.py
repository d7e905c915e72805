"""Measure one NVIDIA GPU: products, convolutions, decoding and prompt steps, training, power.

    python tools/measure_gpu.py OUT.jsonl [--suites gemm,conv,...]

Needs PyTorch with CUDA and nvidia-ml-py, nothing else of this project, so that it runs on a bare
machine. One JSON object a line: `suite`, the shape, `seconds` (one repetition), `watts` (mean
board power over the window, from the board's energy counter; absent where the window is too short
for it), `clock_hz`. Weights and inputs are random: zeros draw less power and run faster. Products
rotate among copies larger together than the cache. Nothing of the card's settings is changed.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pynvml
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BF16 = torch.bfloat16
ROTATE_BYTES = 192e6  # several times the 50-60 MB of Hopper's L2

Row = dict[str, Any]


class Board:
    """The card's energy counter, power and clock through NVML."""

    def __init__(self) -> None:
        pynvml.nvmlInit()
        self.handle = pynvml.nvmlDeviceGetHandleByIndex(0)

    def joules(self) -> float:
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) * 1e-3

    def watts(self) -> float:
        return pynvml.nvmlDeviceGetPowerUsage(self.handle) * 1e-3

    def clock_hz(self) -> float:
        return pynvml.nvmlDeviceGetClockInfo(self.handle, pynvml.NVML_CLOCK_SM) * 1e6

    def facts(self) -> Row:
        limit = pynvml.nvmlDeviceGetEnforcedPowerLimit(self.handle) * 1e-3
        props = torch.cuda.get_device_properties(0)
        return {"suite": "facts", "device": props.name, "sms": props.multi_processor_count,
                "memory_bytes": props.total_memory, "l2_bytes": props.L2_cache_size,
                "power_limit_watts": limit, "torch": torch.__version__,
                "driver": pynvml.nvmlSystemGetDriverVersion()}  # fmt: skip


BOARD: Board


def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, device="cuda") * scale).to(BF16)


def capture(work: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """A graph of `work`, after three warm-up runs on a side stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def timed(run: Callable[[], Any], repeats: int, inner: int = 1) -> float:
    """Median seconds of one of the `inner` repetitions inside `run`, over `repeats` runs."""
    run()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    return sorted(times)[len(times) // 2] / inner


def sustained(run: Callable[[], Any], window_s: float = 2.0, gap_s: float = 0.0) -> Row:
    """Seconds per run, mean watts and clock while `run` repeats, each followed by an idle gap."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    while time.perf_counter() - begin < 0.4:  # let clocks and the power reading settle
        run()
        torch.cuda.synchronize()
        if gap_s:
            time.sleep(gap_s)
    joules, clocks, count, busy = BOARD.joules(), [], 0, 0.0
    begin = time.perf_counter()
    while time.perf_counter() - begin < window_s:
        once = time.perf_counter()
        for _ in range(1 if gap_s else 4):
            run()
            count += 1
        torch.cuda.synchronize()
        busy += time.perf_counter() - once
        if gap_s:
            time.sleep(gap_s)
        if count % 16 == 0:
            clocks.append(BOARD.clock_hz())
    wall = time.perf_counter() - begin
    watts = (BOARD.joules() - joules) / wall
    return {"seconds": busy / count, "busy": busy / wall, "watts": watts,
            "clock_hz": sum(clocks) / max(len(clocks), 1)}  # fmt: skip


def idle() -> Iterator[Row]:
    """Power with a context open and nothing running, twice: clocks fall after some seconds."""
    torch.zeros(1, device="cuda")
    for seconds in (1.0, 4.0):
        joules = BOARD.joules()
        time.sleep(seconds)
        yield {"watts": (BOARD.joules() - joules) / seconds, "clock_hz": BOARD.clock_hz()}


def gemm() -> Iterator[Row]:
    """C = A B^T in bf16 over random shapes, from a graph of rotating weights."""
    draw = torch.Generator().manual_seed(7)
    tokens = [1, 4, 16, 48, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 3000, 4096, 8192, 16384]
    widths = [512, 1024, 1536, 2048, 2560, 3584, 4096, 5120, 6144, 7168, 8192, 11008, 14336, 18432]

    def pick(values: list[int]) -> int:
        return values[int(torch.randint(len(values), (1,), generator=draw))]

    for _ in range(170):
        m, n, k = pick(tokens), pick(widths), pick(widths)
        copies = max(1, min(64, int(ROTATE_BYTES / (2 * n * k)) + 1))
        a = random(m, k)
        weights = [random(n, k, scale=0.02) for _ in range(copies)]

        def work(a: torch.Tensor = a, weights: list[torch.Tensor] = weights) -> None:
            for w in weights:
                F.linear(a, w)

        graph = capture(work)
        yield {"m": m, "n": n, "k": k, "seconds": timed(graph.replay, 9, copies)}
        del graph, weights


def conv() -> Iterator[Row]:
    """Dense, depthwise and partial 2D convolutions, bf16, channels last."""
    torch.backends.cudnn.benchmark = True
    cases: list[tuple[str, int, int, int, int]] = []
    for images in (1, 32):
        cases += [
            (kind, images, side, channels, 3)
            for side, channels in zip((56, 28, 14, 7), (96, 192, 384, 768))
            for kind in ("dense", "depthwise", "partial")
        ]
    # Same FLOP, other shapes: the surface S = side^2 against the channels (alpha-FLOPs).
    cases += [
        ("dense", 1, side, channels, kernel)
        for kernel in (1, 3, 5)
        for side, channels in ((7, 2048), (14, 1024), (28, 512), (56, 256), (112, 128), (224, 64))
    ]
    cases += [
        ("dense", 8, side, channels, 3)
        for side in (8, 16, 32, 64, 128)
        for channels in (64, 128, 256, 512)
    ]
    cases += [
        ("depthwise", 8, side, channels, kernel)
        for side, channels in ((112, 64), (56, 128), (28, 256), (14, 512))
        for kernel in (3, 5, 7)
    ]
    for kind, images, side, channels, kernel in cases:
        used = channels // 4 if kind == "partial" else channels
        x = random(images, channels, side, side).to(memory_format=torch.channels_last)
        groups = used if kind == "depthwise" else 1
        w = random(used, used // groups, kernel, kernel, scale=0.05)
        w = w.to(memory_format=torch.channels_last)

        def work(x: torch.Tensor = x, w: torch.Tensor = w, used: int = used,
                 pad: int = kernel // 2, groups: int = groups) -> None:  # fmt: skip
            for _ in range(8):
                # A partial convolution reads a slice of the channels and leaves the others.
                F.conv2d(x[:, :used], w, padding=pad, groups=groups)

        work()
        graph = capture(work)
        yield {"kind": kind, "images": images, "side": side, "channels": channels,
               "kernel": kernel, "seconds": timed(graph.replay, 9, 8)}  # fmt: skip


def attention() -> Iterator[Row]:
    """Prompt attention (causal) by backend, and decoding attention, bf16."""
    shapes = [(b, s, h, kv, d)
              for b, s in ((1, 512), (1, 2048), (1, 8192), (8, 512), (8, 2048), (4, 8192))
              for h, kv, d in ((32, 8, 128), (64, 8, 64), (16, 16, 128), (16, 8, 256))]  # fmt: skip
    for b, s, h, kv, d in shapes:
        q = random(b, s, h, d).transpose(1, 2)
        k, v = (random(b, s, kv, d).transpose(1, 2) for _ in range(2))
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):

            def work(q: Any = q, k: Any = k, v: Any = v, backend: Any = backend,
                     grouped: bool = h != kv) -> None:  # fmt: skip
                with sdpa_kernel(backend):
                    F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)

            try:
                yield {"phase": "prefill", "backend": backend.name, "batch": b, "tokens": s,
                       "heads": h, "kv_heads": kv, "head_dim": d,
                       "seconds": timed(capture(work).replay, 9)}  # fmt: skip
            except RuntimeError as error:
                print("skipped", backend, b, s, h, kv, d, str(error).splitlines()[0])


class Llama:
    """The operators of a Llama layer stack with random weights (no positions, plain kernels)."""

    def __init__(self, layers: int, hidden: int, inner: int, heads: int, kv: int, dim: int,
                 vocab: int) -> None:  # fmt: skip
        self.heads, self.kv, self.dim, self.hidden = heads, kv, dim, hidden
        self.name = f"{layers}x{hidden}x{inner}, {heads}/{kv} heads of {dim}, {vocab} words"
        scale = hidden**-0.5
        self.layers = [
            (random((heads + 2 * kv) * dim, hidden, scale=scale),
             random(hidden, heads * dim, scale=scale),
             random(2 * inner, hidden, scale=scale),
             random(hidden, inner, scale=inner**-0.5), torch.ones(hidden, device="cuda").to(BF16),
             torch.ones(hidden, device="cuda").to(BF16))
            for _ in range(layers)
        ]  # fmt: skip
        self.head = random(vocab, hidden, scale=scale)

    def parameters(self) -> list[torch.Tensor]:
        return [w for layer in self.layers for w in layer] + [self.head]

    def layer(self, x: torch.Tensor, weights: Any, attend: Callable[..., Any]) -> torch.Tensor:
        qkv, out, up, down, norm1, norm2 = weights
        h = F.linear(F.rms_norm(x, (self.hidden,), norm1), qkv)
        h = h.view(*x.shape[:-1], self.heads + 2 * self.kv, self.dim)
        q, k, v = h.split((self.heads, self.kv, self.kv), dim=-2)
        x = x + F.linear(attend(q, k, v), out)
        gate, value = F.linear(F.rms_norm(x, (self.hidden,), norm2), up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * value, down)

    def causal(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        o = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2),
                                           v.transpose(1, 2), is_causal=True,
                                           enable_gqa=True)  # fmt: skip
        return o.transpose(1, 2).flatten(-2)

    def prompt(self, x: torch.Tensor) -> torch.Tensor:
        for weights in self.layers:
            x = self.layer(x, weights, self.causal)
        return F.linear(x[:, -1], self.head)

    def decode(self, x: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        """One token of each sequence: x (batch, hidden), cache (layers, 2, batch, context, ...)."""
        context = cache.shape[3]
        for i, weights in enumerate(self.layers):
            keys, values = cache[i, 0], cache[i, 1]

            def attend(q: Any, k: Any, v: Any, keys: Any = keys, values: Any = values) -> Any:
                keys[:, context - 1] = k
                values[:, context - 1] = v
                with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                    o = F.scaled_dot_product_attention(
                        q.unsqueeze(2), keys.transpose(1, 2), values.transpose(1, 2),
                        enable_gqa=True)  # fmt: skip
                return o.reshape(o.shape[0], -1)

            x = self.layer(x, weights, attend)
        return F.linear(x, self.head).argmax(-1)


def llama_8b() -> Llama:
    return Llama(32, 4096, 14336, 32, 8, 128, 128256)


def new_cache(model: Llama, batch: int, context: int) -> torch.Tensor:
    cache = torch.empty(len(model.layers), 2, batch, context, model.kv, model.dim,
                        device="cuda", dtype=BF16)  # fmt: skip
    for layer in cache:
        layer.normal_()
    return cache


@torch.no_grad()
def decode() -> Iterator[Row]:
    """Whole decoding steps of Llama-3.1-8B's shapes from a graph, with power; then with gaps."""
    model = llama_8b()
    for batch, context in ((1, 2048), (8, 512), (8, 2048), (32, 2048), (64, 512), (64, 2048),
                           (128, 512), (128, 2048), (256, 512), (16, 16384)):  # fmt: skip
        cache, x = new_cache(model, batch, context), random(batch, model.hidden)
        graph = capture(lambda x=x, cache=cache: model.decode(x, cache))
        yield {"model": model.name, "batch": batch, "context": context, "gap_s": 0.0,
               **sustained(graph.replay)}  # fmt: skip
        if (batch, context) in ((8, 2048), (64, 2048)):
            for gap in (0.002, 0.006, 0.02):
                yield {"model": model.name, "batch": batch, "context": context, "gap_s": gap,
                       **sustained(graph.replay, 2.0, gap)}  # fmt: skip
        del cache, graph


@torch.no_grad()
def prompt() -> Iterator[Row]:
    """Whole prompt steps of Llama-3.1-8B's shapes, with power."""
    model = llama_8b()
    for batch, tokens in ((1, 128), (1, 512), (1, 2048), (1, 8192), (4, 2048), (16, 512),
                          (16, 2048)):  # fmt: skip
        x = random(batch, tokens, model.hidden)
        graph = capture(lambda x=x: model.prompt(x))
        yield {"model": model.name, "batch": batch, "tokens": tokens, "gap_s": 0.0,
               **sustained(graph.replay, 1.5)}  # fmt: skip
        if (batch, tokens) == (1, 2048):
            for gap in (0.02, 0.1):
                yield {"model": model.name, "batch": batch, "tokens": tokens, "gap_s": gap,
                       **sustained(graph.replay, 1.5, gap)}  # fmt: skip
        del graph


def power() -> Iterator[Row]:
    """Board power of single kernels that keep the card busy."""
    a, w = random(8192, 8192), random(8192, 8192, scale=0.02)
    yield {"kernel": "gemm 8192", **sustained(lambda: F.linear(a, w))}
    small = random(64, 8192)
    weights = [random(8192, 8192, scale=0.02) for _ in range(8)]

    def skinny() -> None:
        for one in weights:
            F.linear(small, one)

    yield {"kernel": "gemm 64x8192x8192", **sustained(capture(skinny).replay)}
    x = random(1 << 30)
    y = torch.empty_like(x)
    yield {"kernel": "copy 2 GiB", "bytes": 4 * (1 << 30), **sustained(lambda: y.copy_(x))}
    yield {"kernel": "sum 2 GiB", "bytes": 2 * (1 << 30), **sustained(lambda: x.sum())}


@torch.no_grad()
def shared() -> Iterator[Row]:
    """One or two decoding instances on the card, each with host gaps, on two streams."""
    model = llama_8b()
    batch, context = 32, 1024
    graphs, streams, caches = [], [torch.cuda.Stream(), torch.cuda.Stream()], []
    for _ in range(2):
        caches.append(new_cache(model, batch, context))
        x = random(batch, model.hidden)
        graphs.append(capture(lambda x=x, cache=caches[-1]: model.decode(x, cache)))
    for gap in (0.0, 0.003, 0.01):
        for instances in (1, 2):
            ends = [torch.cuda.Event() for _ in range(instances)]
            ready, steps = [0.0] * instances, 0
            live = [False] * instances
            begin, joules = time.perf_counter(), BOARD.joules()
            while (now := time.perf_counter()) - begin < 2.0:
                for i in range(instances):
                    if live[i] and ends[i].query():
                        live[i], ready[i], steps = False, now + gap, steps + 1
                    if not live[i] and now >= ready[i]:
                        with torch.cuda.stream(streams[i]):
                            graphs[i].replay()
                            ends[i].record()
                        live[i] = True
            wall = time.perf_counter() - begin
            torch.cuda.synchronize()
            watts = (BOARD.joules() - joules) / wall
            yield {"instances": instances, "batch": batch, "context": context, "gap_s": gap,
                   "steps_per_s": steps / wall, "watts": watts}  # fmt: skip


def training() -> Iterator[Row]:
    """Training steps of Llama-3.2-1B's shapes: time, peak memory and power by micro-batch."""
    from torch.utils.checkpoint import checkpoint

    cases = ((1, 4096, False), (2, 4096, False), (4, 4096, False), (4, 4096, True),
             (8, 4096, True), (8, 1024, False))  # fmt: skip
    for batch, tokens, recompute in cases:
        torch.cuda.empty_cache()
        model = Llama(16, 2048, 8192, 32, 8, 64, 128256)
        weights = [w.requires_grad_() for w in model.parameters()]
        optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)
        x = random(batch, tokens, model.hidden)
        target = torch.randint(128256, (batch * tokens,), device="cuda")

        def step(model: Llama = model, optimizer: Any = optimizer, x: Any = x, target: Any = target,
                 recompute: bool = recompute) -> None:  # fmt: skip
            h = x
            for layer in model.layers:
                if recompute:
                    h = checkpoint(model.layer, h, layer, model.causal, use_reentrant=False)
                else:
                    h = model.layer(h, layer, model.causal)
            logits = F.linear(h, model.head).flatten(0, 1)
            F.cross_entropy(logits, target).backward()
            optimizer.step()
            optimizer.zero_grad()

        torch.cuda.reset_peak_memory_stats()
        row = sustained(step, 2.0)
        yield {"model": model.name, "batch": batch, "tokens": tokens, "recompute": recompute,
               "peak_bytes": torch.cuda.max_memory_allocated(), **row}  # fmt: skip
        del model, weights, optimizer, x, target


def launch() -> Iterator[Row]:
    """Time per kernel of tiny kernels: launched by the host, and inside a graph."""
    x = torch.zeros(32, device="cuda")

    def work() -> None:
        for _ in range(1000):
            x.add_(1.0)

    yield {"how": "host", "seconds": timed(work, 5, 1000)}
    yield {"how": "graph", "seconds": timed(capture(work).replay, 5, 1000)}


SUITES: dict[str, Callable[[], Iterator[Row]]] = {
    "idle": idle, "launch": launch, "gemm": gemm, "conv": conv, "attention": attention,
    "power": power, "decode": decode, "prompt": prompt, "shared": shared, "training": training,
}  # fmt: skip


def main() -> None:
    """Run the suites; a failing one is reported and the others go on."""
    global BOARD
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--suites", default=",".join(SUITES))
    arguments = parser.parse_args()
    BOARD = Board()
    with open(arguments.out, "w") as out:
        out.write(json.dumps(BOARD.facts()) + "\n")
        for name in arguments.suites.split(","):
            begin, count = time.perf_counter(), 0
            try:
                for row in SUITES[name]():
                    out.write(json.dumps({"suite": name, **row}) + "\n")
                    out.flush()
                    count += 1
            except Exception:
                traceback.print_exc()
            torch.cuda.empty_cache()
            print(f"{name}: {count} rows in {time.perf_counter() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
