"""Rounding on a GPU: equal to the host bit for bit, and its speed beside a plain copy.

    python -m benchmarks.cuda_rounding [--device cuda] [--values 100000000]

Equality: every 16-bit pattern of float16 and bfloat16, random float32 and float64 bit patterns, and
the boundaries of each format with their neighbours, for every named format in every direction,
values and code words, and every named block format; the reference is the NumPy body on the host,
another algorithm. Speed: device time by events, the copy timed in turn with each function.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from isoflop.errors import InvalidInput
from isoflop.numerics import _floatround, encode, format_names, load_format, round_to, tensors
from isoflop.numerics.formats import BlockFormat, FloatFormat, PositFormat, PowerFormat
from isoflop.numerics.policies import Rounding

MODES = Rounding.__args__
EXTRA = ("e5m7", "e4m0fn", "e8m20", "p3109-8p1se", "p3109-8p3sf", "p3109-7p4ue", "p3109-16p12se")
BLOCK_EXTRA = ("mxfp4-ceil", "mxfp4-rceil", "mxfp4-even", "bfp12-n32", "int4-g128", "int4-g64-asym")
TIMED = (
    ("round_to", "fp8-e4m3", "nearest_even"), ("round_to", "fp8-e5m2", "nearest_even"),
    ("round_to", "fp4-e2m1", "nearest_even"), ("round_to", "fp16", "nearest_even"),
    ("round_to", "bf16", "nearest_even"), ("round_to", "fp8-e4m3", "toward_zero"),
    ("round_to", "fp8-e4m3", "stochastic"), ("encode", "fp8-e4m3", "nearest_even"),
    ("encode", "fp4-e2m1", "stochastic"), ("round_to", "mxfp4", "nearest_even"),
    ("round_to", "mxfp8-e4m3", "nearest_even"), ("round_to", "nvfp4", "nearest_even"),
    ("round_to", "nvfp4", "stochastic"), ("round_to", "int4-g128", "nearest_even"),
)  # fmt: skip


def inputs(fmt: object) -> list[torch.Tensor]:
    """Host tensors of the four types, without NaN for formats that have none."""
    rng = np.random.default_rng(1)
    patterns = torch.from_numpy(np.arange(65536, dtype=np.uint16).view(np.int16))
    kinds = [patterns.view(torch.float16), patterns.view(torch.bfloat16)]
    if isinstance(fmt, PowerFormat) or (isinstance(fmt, PositFormat) and fmt.n > 16):
        kinds = []  # computed on the host: a sample shows that the way back is right
    for real, word in ((np.float32, np.uint32), (np.float64, np.uint64)):
        bits = 8 * np.dtype(word).itemsize
        wild = rng.integers(0, 2**bits, 8192, dtype=word).view(real)
        tame = (rng.standard_normal(8192) * 2.0 ** rng.uniform(-14, 10, 8192)).astype(real)
        kinds.append(torch.from_numpy(np.concatenate([wild, tame, *edges(fmt, real)])))
    has_nan = isinstance(fmt, (FloatFormat, PositFormat))
    return kinds if has_nan else [k[~k.isnan()] for k in kinds]


def edges(fmt: object, real: type) -> list[np.ndarray]:
    """Values, midpoints and neighbours of a float format, both signs."""
    if not isinstance(fmt, FloatFormat):
        return []
    steps = np.unique(np.linspace(0, fmt.max_index, 500).astype(np.int64))
    with np.errstate(over="ignore"):
        low = np.array([fmt.value_of_index(int(i)) for i in steps])
        high = np.array([fmt.value_of_index(int(i) + 1) for i in steps])
        x = np.concatenate([low, (low + high) / 2, high]).astype(real)
        near = np.nextafter(x, real(0)), np.nextafter(x, real(np.inf))
    return [x, -x, *near, *(-n for n in near)]


def plain(x: torch.Tensor) -> np.ndarray:
    """A host copy that NumPy can compare: bfloat16 as float32."""
    x = x.cpu()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()


def differing(a: np.ndarray, b: np.ndarray) -> int:
    """Unequal elements, signs of zeros told apart, NaN equal to NaN."""
    if a.dtype.kind != "f":
        return int((a != b).sum())
    equal = (a == b) & (np.signbit(a) == np.signbit(b)) | (np.isnan(a) & np.isnan(b))
    return int((~equal).sum())


def outcome(function: Callable, *arguments, **options) -> object:
    """A result or, where the request is refused, the sentence."""
    try:
        return function(*arguments, **options)
    except InvalidInput as refusal:
        return str(refusal)


def scalar_equality(device: str) -> tuple[int, int]:
    """(compared, different) over named scalar formats, directions, types, values and codes."""
    compared = different = 0
    names = [n for n in format_names() if not isinstance(load_format(n), BlockFormat)]
    for name in (*names, *EXTRA):
        fmt = load_format(name)
        options = {"nan": "opposite_zero"} if isinstance(fmt, FloatFormat) else {}
        for x in inputs(fmt):
            moved = x.to(device)
            host = x.float().numpy() if x.dtype == torch.bfloat16 else x.numpy()
            for rounding in MODES:
                for function in (round_to, encode):
                    mine = outcome(function, moved, fmt, rounding=rounding, seed=3, **options)
                    if isinstance(mine, str):  # float16 cannot hold bfloat16 and the like
                        continue
                    theirs = function(host, fmt, rounding=rounding, seed=3, **options)
                    if x.dtype == torch.bfloat16 and function is round_to:
                        theirs = torch.from_numpy(theirs).bfloat16().float().numpy()
                    wrong = differing(plain(mine), theirs)
                    compared += x.numel()
                    different += wrong
                    if wrong:
                        print(f"  {name} {rounding} {function.__name__} {x.dtype}: {wrong} differ")
    return compared, different


def block_equality(device: str) -> tuple[int, int]:
    """(compared, different) over block formats, values after rounding."""
    compared = different = 0
    rng = np.random.default_rng(2)
    x = rng.standard_normal((256, 512)) * 2.0 ** rng.integers(-40, 40, (256, 1))
    x[3] = 0
    names = [n for n in format_names() if isinstance(load_format(n), BlockFormat)]
    for name in (*names, *BLOCK_EXTRA):
        for real in (np.float32, np.float64):
            for rounding in ("nearest_even", "toward_zero", "up", "stochastic"):
                host = x.astype(real)
                mine = round_to(torch.from_numpy(host).to(device), name, rounding=rounding, seed=4)
                wrong = differing(plain(mine), round_to(host, name, rounding=rounding, seed=4))
                compared += x.size
                different += wrong
                if wrong:
                    print(f"  {name} {rounding} {real.__name__}: {wrong} differ")
    return compared, different


def seconds(device: str, function: Callable[[], object]) -> float:
    """Seconds of one call on the device."""
    if device == "cpu":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def speed(device: str, count: int) -> None:
    """Values per second, as a share of a copy timed in turn."""
    x = torch.randn(count // 4096, 4096, device=device)
    out = torch.empty_like(x)
    print(f"\n{x.numel():,} float32 values on {device}")
    print(
        f"{'function':10s}{'format':14s}{'direction':15s}{'10^9 values/s':>14s}{'of a copy':>11s}"
    )
    calls = [
        (f"{function:10s}{name:14s}{rounding:15s}", _call(function, x, name, rounding, out))
        for function, name, rounding in TIMED
    ]
    there_and_back = lambda: out.copy_(x.to(torch.float8_e5m2))  # noqa: E731
    calls.append((f"{'torch':10s}{'float8_e5m2':14s}{'there and back':15s}", there_and_back))
    for label, call in calls:
        call(), out.copy_(x)
        least, ratios = float("inf"), []
        for _ in range(7):
            copied, taken = seconds(device, lambda: out.copy_(x)), seconds(device, call)
            least, ratios = min(least, taken), [*ratios, copied / taken]
        print(f"{label}{x.numel() / least / 1e9:14.2f}{np.median(ratios):11.1%}", flush=True)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        round_to(x, "fp8-e4m3", rounding="stochastic", out=out)
        extra = torch.cuda.max_memory_allocated() - before
        print(f"temporaries of stochastic rounding: {extra / x.nbytes:.1%} of the tensor's bytes")


def _call(function: str, x, name: str, rounding: str, out) -> Callable[[], object]:
    if function == "encode":
        return lambda: encode(x, name, rounding=rounding, nan="max")
    return lambda: round_to(x, name, rounding=rounding, nan="max", out=out)


def main() -> int:
    """Print counts and speeds; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--values", type=int, default=100_000_000)
    arguments = parser.parse_args()
    tensors.EVERYWHERE = True  # so that --device cpu also tests the tensor bodies
    _floatround.FORCED = "plain"  # the reference is the NumPy body
    gpu = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU tensors"
    print(f"{gpu}, torch {torch.__version__}, numpy {np.__version__}")
    failed = 0
    for what, check in (("scalar formats", scalar_equality), ("block formats", block_equality)):
        start = time.perf_counter()
        compared, different = check(arguments.device)
        failed += different
        took = time.perf_counter() - start
        print(f"{what}: {compared:,} results compared, {different} different ({took:.0f} s)")
    speed(arguments.device, arguments.values)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
