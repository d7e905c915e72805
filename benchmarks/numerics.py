"""Speed of the number-format emulator beside a plain copy and the peers installed here.

    python -m benchmarks.numerics [--quick]

CPU seconds of this process with one thread (as well as OPENBLAS_NUM_THREADS=2 for GPTQ), best of
several repeats, the copy timed in the same run: ratios survive a busy machine, absolute figures
less so.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from isoflop.numerics import decode, encode, load_format, quantizers, round_to
from isoflop.numerics.arithmetic import compressed, lut_gemm

VALUES = 10_000_000
FLOATS = ("fp8-e4m3", "fp8-e5m2", "fp6-e3m2", "fp6-e2m3", "fp4-e2m1", "bf16", "fp16", "e5m7")
BLOCKS = ("mxfp4", "mxfp6-e3m2", "mxfp8-e4m3", "nvfp4", "nvfp4-one-level")
OTHERS = ("posit16", "nf4", "int4-g128", "bfp12-n32")


def best(function: Callable[[], object], repeats: int = 7) -> float:
    """Least CPU seconds of `repeats` calls after a warm-up."""
    function()
    least = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        function()
        least = min(least, time.process_time() - start)
    return least


def paired(
    reference: Callable[[], object], function: Callable[[], object], repeats: int = 15
) -> tuple[float, float]:
    """Least CPU seconds of `function`, and the median of reference time over its time, the two
    timed in turn so that a busy neighbour slows both."""
    reference(), function()
    least, ratios = float("inf"), []
    for _ in range(repeats):
        start = time.process_time()
        reference()
        middle = time.process_time()
        function()
        end = time.process_time()
        least = min(least, end - middle)
        ratios.append((middle - start) / (end - middle))
    return least, float(np.median(ratios))


def rounding(x: np.ndarray) -> float:
    """Float formats against a copy; returns the E4M3-like time for the pychop comparison."""
    out = np.empty_like(x)
    print(f"\n{'format':18s}{'direction':16s}{'10^9 values/s':>14s}{'share of copy':>15s}")
    e4m3 = 0.0
    for name in FLOATS:
        for rounding_ in ("nearest_even", "stochastic", "up"):
            if rounding_ == "up" and name != "fp8-e4m3":
                continue

            def call(name=name, rounding_=rounding_):
                round_to(x, name, rounding=rounding_, out=out)

            taken, share = paired(lambda: np.copyto(out, x), call)
            if name == "fp8-e5m2" and rounding_ == "nearest_even":
                e4m3 = taken
            rate = x.size / taken / 1e9
            print(f"{name:18s}{rounding_:16s}{rate:14.2f}{share:15.0%}")
    taken = best(lambda: encode(x, "fp8-e4m3"))
    print(f"{'fp8-e4m3 encode':18s}{'nearest_even':16s}{x.size / taken / 1e9:14.2f}")
    return e4m3


def blocks(x: np.ndarray) -> None:
    """Block formats, values in and values out."""
    print(f"\n{'block format':18s}{'10^9 values/s':>14s}{'share of copy':>15s}")
    out = np.empty_like(x)
    for name in (*BLOCKS, *OTHERS):
        rows = x.shape[0] if name in BLOCKS else x.shape[0] // 16
        part, into = x[:rows], out[:rows]

        def call(name=name, part=part, into=into):
            round_to(part, name, out=into)

        def copy(part=part, into=into):
            np.copyto(into, part)

        taken, share = paired(copy, call, 7)
        print(f"{name:18s}{part.size / taken / 1e9:14.3f}{share:15.0%}")


def peers(x: np.ndarray, ours: float) -> None:
    """The same rounding (E5M2, nearest even) by the peers that are installed."""
    print(f"\n{'peer, E5M2':34s}{'10^9 values/s':>14s}{'isoflop is':>12s}")

    def show(name: str, function: Callable[[], object], repeats: int) -> None:
        taken = best(function, repeats)
        print(f"{name:34s}{x.size / taken / 1e9:14.3f}{taken / ours:11.1f}x")

    try:
        import ml_dtypes

        show(
            f"ml_dtypes {ml_dtypes.__version__}",
            lambda: x.astype(ml_dtypes.float8_e5m2).astype(np.float32), 2,
        )  # fmt: skip
    except ImportError:
        print("ml_dtypes is not installed")
    try:
        import torch

        torch.set_num_threads(1)
        t = torch.from_numpy(x)
        show(f"torch {torch.__version__}", lambda: t.to(torch.float8_e5m2).to(torch.float32), 3)
        import pychop

        pychop.backend("torch")
        chop = pychop.Chop(exp_bits=5, sig_bits=2, rmode=1)
        show("pychop, torch backend", lambda: chop(t), 2)
    except ImportError:
        print("torch or pychop is not installed")


def low_bit_products() -> None:
    """Products of 2- to 4-bit weights by lookup beside int8 and float32, one thread.

    What lookups and int8 both need of the left side (codes) is ready; packed weights too.
    """
    m, n, k = 64, 4096, 4096
    rng = np.random.default_rng(0)
    operations = 2 * m * n * k / 1e9
    print(f"\n{f'{m} x {n} x {k} product':50s}{'10^9 op/s':>14s}")
    for bits in (2, 3, 4):
        a, w = (rng.integers(0, 1 << bits, (rows, k), dtype=np.uint8) for rows in (m, n))
        packed, book = lut_gemm.pack(w, bits), np.arange(1 << bits) - (1 << bits >> 1)
        kinds = {"evenly spaced values": np.multiply.outer(book, book)}
        if bits == 2:
            kinds["any 16-entry table"] = rng.integers(-9, 9, (4, 4))
        for what, table in kinds.items():
            taken = best(lambda packed=packed, a=a, t=table: lut_gemm.matmul(a, packed, t), 5)
            print(f"{f'{bits} bit, {what}':50s}{operations / taken:14.0f}")
    for name, product in _eight_bit(rng, m, n, k).items():
        print(f"{name:50s}{operations / best(product, 5):14.0f}")


def compressed_products() -> None:
    """Weights as codes, expanded as they are loaded, beside decoding them first and keeping
    them as float32; one thread."""
    k = 4096
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((k, k)).astype(np.float32)
    print(f"\n{f'{k} x {k} weights as codes':24s}{'rows':>6s}{'ms':>8s}"
          f"{'decoded first / it':>20s}{'kept float32 / it':>19s}")  # fmt: skip
    for name in ("bf16", "posit16", "softposit8", "fp8-e4m3"):
        codes = encode(weights, name)
        wide = decode(codes, name)
        for rows in (1, 8, 64):
            x = rng.standard_normal((rows, k)).astype(np.float32)
            ours, first, kept = (
                best(function, 4)
                for function in (
                    lambda x=x, c=codes, f=name: compressed.matmul(x, c, f),
                    lambda x=x, c=codes, f=name: x @ decode(c, f).T,
                    lambda x=x, w=wide: x @ w.T,
                )
            )
            print(f"{name:24s}{rows:6d}{ours * 1e3:8.1f}{first / ours:19.1f}x{kept / ours:18.2f}x")


def _eight_bit(rng: np.random.Generator, m: int, n: int, k: int) -> dict[str, Callable[[], object]]:
    """The int8 products that PyTorch has here, and its float32 one."""
    try:
        import torch
    except ImportError:
        print("torch is not installed")
        return {}
    torch.set_num_threads(1)
    x, w = (torch.from_numpy(rng.standard_normal((r, k)).astype(np.float32)) for r in (m, n))
    found: dict[str, Callable[[], object]] = {
        f"float32, torch {torch.__version__}": lambda: x @ w.T
    }
    left, right = (t.mul(20).to(torch.int8) for t in (x, w))
    found["int8, torch._int_mm"] = lambda: torch._int_mm(left, right.t())
    codes = torch.quantize_per_tensor(x, 0.05, 128, torch.quint8)
    scales, zeros = torch.full((n,), 0.05), torch.zeros(n, dtype=torch.int64)
    weights = torch.quantize_per_channel(w, scales, zeros, 0, torch.qint8)
    for engine in ("fbgemm", "onednn"):
        if engine in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = engine
            packed = torch.ops.quantized.linear_prepack(weights, None)
            found[f"int8, torch quantized linear, {engine}"] = lambda packed=packed: (
                torch.ops.quantized.linear(codes, packed, 1.0, 0)
            )
    return found


def methods() -> None:
    """Quantizers: SeedLM's full search and GPTQ of a 4096 x 4096 layer."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((64, 256)) * 0.02).astype(np.float32)
    blind = quantizers.Calibration.identity(256)
    seedlm = quantizers.load("seedlm")
    taken = best(lambda: seedlm.quantize(weight, None, blind), 2)
    print(f"\nSeedLM 4 bit, 65,535 seeds: {weight.size / taken:,.0f} weights per CPU second")
    n = 4096
    weight = (rng.standard_normal((n, n)) * 0.02).astype(np.float32)
    inputs = rng.standard_normal((n + 512, n)).astype(np.float32)
    moments = quantizers.Calibration.of(inputs)
    for name in ("int4-g128", "nvfp4"):
        fmt = quantizers.load_weight_format(name)
        start, cpu = time.perf_counter(), time.process_time()
        quantizers.load("gptq").quantize(weight, fmt, moments)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"GPTQ {n} x {n} to {name}: {wall:.1f} s, {cpu:.1f} CPU s")


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the values, no GPTQ")
    arguments = parser.parse_args()
    size = (VALUES // 10 if arguments.quick else VALUES) // 4096 * 4096
    x = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    print(f"{size:,} float32 values, one thread; {load_format('fp8-e4m3').note}")
    ours = rounding(x)
    blocks(x.reshape(-1, 4096))
    peers(x, ours)
    low_bit_products()
    compressed_products()
    if not arguments.quick:
        methods()


if __name__ == "__main__":
    main()
