"""Fit the GEMM model of each measured device family and write `gemm-<family>.toml`.

    python tools/calibrate_gemm.py --data ../shared/data [--family ada --only fp8 fp8-block]

Reads the measured tables of ai-dynamo/aiconfigurator (Apache-2.0, commit 095f58a5). Two shapes in
five, chosen by a hash of (m, n, k), are held out and only reported on. Of each operand class the
kernel that the engine runs by default is fitted: cuBLAS for bf16, CUTLASS scaled products for fp8,
and for block-scaled fp8 DeepGEMM (Hopper) or Triton (Ada), whose table was timed without a
captured graph: only its rows well above the host's 60-330 us are kernel time, and only they are
used. The fastest of repeated shapes counts.

`gemm-default.toml`, for families without measurements, is the geometric mean of the families'
parameters, fitted without what only some of them show (`CROWDED`); a run over all families and
classes writes it. A family of one device is left out by predicting it from the mean of the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from _fitting import fit, held_out, quality, toml_table
from isoflop.cost.kernels import DeviceShape
from isoflop.cost.kernels.calibration import load_gemm
from isoflop.cost.kernels.gemm import GemmParameters, gemm_time_s, quantize_time_s
from isoflop.hardware import load_accelerator

OUT = Path(__file__).resolve().parents[1] / "src/isoflop/data/calibrations"
TABLES = "operators/aiconfigurator"
FAMILIES = {
    "hopper": {"h100-sxm": ("h100_sxm", "0.24.0"), "h200": ("h200_sxm", "0.24.0")},
    "ampere": {"a100-80gb-sxm": ("a100_sxm", "0.14.0")},
    "ada": {"l40s": ("l40s", "0.24.0")},
}
SAMPLE = 2500
"""Fitted rows per device: many times the parameters, and a fit stays in seconds."""
ANY = 1_000_000_000
LADDERS = {
    # What vLLM's CUTLASS dispatch picks by rows, and on Ada by columns too.
    ("hopper", "fp8"): ((64, ANY, 64, 64), (128, ANY, 64, 128), (ANY, ANY, 128, 128)),
    ("ada", "fp8"): (
        (16, 8192, 16, 64), (16, 16384, 16, 128), (16, ANY, 32, 64),
        (32, 8192, 32, 64), (32, 16384, 32, 128), (32, ANY, 32, 64),
        (64, 8192, 64, 64), (64, 16384, 64, 128), (64, ANY, 64, 64),
        (128, 8192, 64, 128), (128, 16384, 128, 128), (128, ANY, 128, 64),
        (256, 4096, 64, 128), (256, ANY, 128, 128),
        (ANY, 4096, 128, 128), (ANY, 8192, 256, 128), (ANY, ANY, 128, 128),
    ),
    ("hopper", "fp8-block"): ((64, ANY, 64, 128), (ANY, ANY, 128, 128)),
    ("ada", "fp8-block"): ((16, ANY, 16, 128), (ANY, ANY, 64, 128)),
}  # fmt: skip
CLASSES = {"bf16": ("bfloat16", "bf16", 2.0), "fp8": ("fp8", "fp8", 1.0),
           "fp8-block": ("fp8_block", "fp8", 1.0)}  # fmt: skip
KERNELS = {("hopper", "fp8-block"): "DeepGemm", ("ada", "fp8-block"): "Triton"}
HOST_S = {"hopper": 130e-6, "ada": 600e-6}
"""Block-scaled rows faster than this time the host."""
LIMITS = {
    # start, low, high
    "compute": (0.85, 0.3, 1.0), "memory": (0.82, 0.4, 1.0), "load": (40.0, 4.0, 400.0),
    "store": (15.0, 0.5, 300.0), "fixed": (2.5e-6, 0.2e-6, 20e-6), "split": (4e3, 50.0, 2e4),
    "join": (3.0, 1.05, 10.0), "fill": (0.5, 0.01, 2.0), "patch": (0.7, 0.1, 4.0),
    "throttle": (0.08, 1e-3, 0.4), "residency": (0.7, 0.1, 1.2),
    "crowd": (12.0, 2.0, 400.0), "overlap": (3.0, 1.0, 20.0),
    "quantize_row": (1800.0, 10.0, 2e4), "quantize_fixed": (2e-6, 1e-8, 1e-5),
}  # fmt: skip
FREE = {
    "bf16": ["compute", "memory", "load", "store", "fixed", "split", "join", "fill", "patch",
             "throttle", "residency"],
    "fp8": ["compute", "memory", "load", "store", "join", "fill", "throttle", "residency",
            "quantize_row", "quantize_fixed"],
    "fp8-block": ["compute", "load", "store", "throttle"],
}  # fmt: skip
"""Fitted parameters of each class; the others come from the class before."""
CROWDED = {("ada", "fp8"): ["crowd", "overlap"]}
"""Further ones where products outrun the cache: on an L40S a lone 128 x 128 tile takes 18 clocks
per value of the inner dimension, one among 142 takes 29, which is 8.8 bytes per clock and unit."""

Columns = dict[str, np.ndarray]


def read(data: Path, family: str, device: str, kind: str) -> Columns:
    """One device's rows of one operand class, the fastest of repeated shapes."""
    folder, version = FAMILIES[family][device]
    table = pq.read_table(data / TABLES / folder / "gemm/vllm" / version / "gemm_perf.parquet")
    table = table.filter(pc.equal(table["gemm_dtype"], CLASSES[kind][0]))
    if (family, kind) in KERNELS:
        table = table.filter(pc.match_substring(table["kernel_source"], KERNELS[family, kind]))
        table = table.filter(pc.greater(table["latency"], HOST_S[family] * 1e3))
    keys = ["m", "n", "k"]
    table = table.group_by(keys).aggregate([("latency", "min")])
    table = table.sort_by([(k, "ascending") for k in keys])
    columns = {k: np.asarray(table[k].to_pylist(), float) for k in keys}
    columns["seconds"] = np.asarray(table["latency_min"].to_pylist(), float) * 1e-3
    shapes = zip(*(table[k].to_pylist() for k in keys), strict=True)
    columns["held"] = held_out(list(shapes))
    return columns


def predict(p: GemmParameters, device: str, kind: str, rows: Columns) -> np.ndarray:
    """Seconds as the tables time them: repeated weights, 8-bit activations quantised inside."""
    accelerator = load_accelerator(device)
    shape, (_, rate, width) = DeviceShape.of(accelerator), CLASSES[kind]
    seconds = gemm_time_s(
        p, shape, rows["m"], rows["n"], rows["k"], streamed=False,
        rate_flop_per_s=accelerator.rates.dense_flop_per_s[rate],
        weight_bytes_per_value=width, activation_bytes_per_value=width,
    )  # fmt: skip
    return seconds + (quantize_time_s(p, shape, rows["m"], rows["k"]) if rate == "fp8" else 0.0)


def pick(rows: Columns, mask: np.ndarray, count: int = SAMPLE) -> Columns:
    """At most `count` of the masked rows, the same at every run."""
    index = np.flatnonzero(mask)
    if len(index) > count:
        index = np.sort(np.random.default_rng(7).choice(index, count, replace=False))
    return {k: v[index] for k, v in rows.items()}


def solve(
    rows: dict[str, Columns], kind: str, base: dict[str, Any], ladder: tuple,
    further: Sequence[str] = (),
) -> GemmParameters:  # fmt: skip
    """Robust fit of the class's free parameters, in logarithms, on all given devices."""
    names = [*FREE[kind], *further]
    start, low, high = (np.log([LIMITS[n][i] for n in names]) for i in range(3))
    fitted = {d: pick(r, ~r["held"]) for d, r in rows.items()}
    fixed = {n: LIMITS[n][0] for n in FREE["bf16"]} | base

    def build(x: np.ndarray) -> GemmParameters:
        values = {n: float(v) for n, v in zip(names, np.exp(x), strict=True)}
        return GemmParameters(**(fixed | values | {"ladder": ladder}))

    def residual(x: np.ndarray) -> np.ndarray:
        p = build(x)
        return np.concatenate(
            [np.log(predict(p, d, kind, r) / r["seconds"]) for d, r in fitted.items()]
        )

    return build(fit(residual, start, low, high))


def mean(parameters: list[GemmParameters]) -> GemmParameters:
    """Middle of several parameter sets; the rule of tiles is the first one's.

    Geometric for rates and times, arithmetic for the two that can be about zero.
    """
    records = [attrs.asdict(p, recurse=False) for p in parameters]
    values = {}
    for name in records[0].keys() - {"ladder"}:
        column = np.array([r[name] for r in records])
        near_zero = name in ("fill", "throttle") or not column.all()
        values[name] = float(column.mean() if near_zero else np.exp(np.log(column).mean()))
    return GemmParameters(**values, ladder=parameters[0].ladder)


def errors(p: GemmParameters, rows: dict[str, Columns], kind: str) -> dict[str, np.ndarray]:
    """log(predicted / measured) of every device's held-out rows."""
    out = {}
    for device, r in rows.items():
        held = pick(r, r["held"], count=20_000)
        out[device] = np.log(predict(p, device, kind, held) / held["seconds"])
    return out


def median(error: np.ndarray) -> float:
    """Median absolute relative error of log errors."""
    return float(np.median(np.abs(np.expm1(error))))


def left_out(
    name: str, kind: str, rows: dict, fits: dict[str, GemmParameters], base: dict[str, Any]
) -> float:
    """Worst median error on a device that the parameters it is predicted with never saw."""
    own = rows[name]
    if len(own) == 1:
        others = [fits[f] for f in fits if f != name]
        if not others:
            return 0.0
        p = attrs.evolve(mean(others), ladder=fits[name].ladder)
        return median(errors(p, own, kind)[next(iter(own))])
    worst = 0.0
    for device in own:
        rest = {d: r for d, r in own.items() if d != device}
        p = solve(rest, kind, base, fits[name].ladder)
        worst = max(worst, median(errors(p, {device: own[device]}, kind)[device]))
    return worst


def describe(family: str, kind: str, rows: dict, p: GemmParameters, left: float) -> dict[str, Any]:
    """Quality of a fit on held-out shapes, printed and returned."""
    by_device = errors(p, rows, kind)
    error = np.concatenate(list(by_device.values()))
    count = sum(min(SAMPLE, int((~r["held"]).sum())) for r in rows.values())
    note = "ai-dynamo/aiconfigurator 095f58a5, gemm/vllm: " + ", ".join(
        f"{f} {v}" for f, v in FAMILIES[family].values()
    )
    q = quality(error, count, note, left)
    q |= {"bias": float(-np.expm1(-np.median(error)))}
    q |= {n: float(np.exp(np.quantile(-error, s))) for n, s in (("low", 0.05), ("high", 0.95))}
    devices = "  ".join(f"{d} {median(e):.1%}" for d, e in by_device.items())
    print(
        f"{family:7s} {kind:10s} median {q['median_error']:.1%}  mean {q['mean_error']:.1%}  "
        f"p90 {q['p90_error']:.1%}  bias {q['bias']:+.1%}  left out {left:.1%}  "
        f"coverage {q['coverage']:.0%}  ({q['held_out']} held out)   {devices}", flush=True,
    )  # fmt: skip
    return q


def write(family: str, devices: list[str], fits: dict, scores: dict, note: str = "") -> None:
    """One calibration file."""
    head = f'family = "{family}"\ndevices = {devices}\nsource = "tables"\n'.replace("'", '"')
    head += f'note = "{note}"\n' if note else ""
    tables = [toml_table(f"gemm.{k}", p) for k, p in fits.items()]
    tables += [toml_table(f'quality."gemm.{k}"', q) for k, q in scores.items()]
    source = (
        '[sources.tables]\ntitle = "ai-dynamo/aiconfigurator measured kernels (Apache-2.0)"\n'
        'locator = "commit 095f58a5, systems/data, gemm/vllm"\ndate = "2026"\n'
    )
    (OUT / f"gemm-{family}.toml").write_text("\n".join([head, *tables, source]))


def main() -> None:
    """Fit every family, class by class, or some of them, and write all files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--family", nargs="*", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--only", nargs="*", choices=list(FREE), default=list(FREE))
    arguments = parser.parse_args()
    known = {f: load_gemm(f) for f in FAMILIES}
    fits: dict[str, dict[str, GemmParameters]] = {f: {} for f in FAMILIES}
    scores: dict[str, dict[str, Any]] = {f: {} for f in FAMILIES}
    plain: dict[str, dict[str, GemmParameters]] = {f: {} for f in FAMILIES}
    for kind, before in (("bf16", None), ("fp8", "bf16"), ("fp8-block", "fp8")):
        names = [f for f in FAMILIES if f != "ampere" or kind == "bf16"]
        anew = [f for f in names if f in arguments.family and kind in arguments.only]
        rows = {f: {d: read(arguments.data, f, d, kind) for d in FAMILIES[f]} for f in anew}
        bases, plain_bases = (
            {f: attrs.asdict(of[f][before], recurse=False) if before else {} for f in names}
            for of in (fits, plain)
        )
        for f in names:
            ladder = LADDERS.get((f, kind), ())
            kept = known[f].gemm.get(kind)
            if f in anew or kept is None:
                kept = solve(rows[f], kind, bases[f], ladder, CROWDED.get((f, kind), ()))
            fits[f][kind] = plain[f][kind] = kept
            if f in anew and {(f, before), (f, kind)} & set(CROWDED):
                plain[f][kind] = solve(rows[f], kind, plain_bases[f], ladder)
        of_kind = {f: fits[f][kind] for f in names}
        for f in names:
            if f not in anew:
                scores[f][kind] = attrs.asdict(known[f].quality[f"gemm.{kind}"])
                continue
            left = left_out(f, kind, rows, of_kind, bases[f])
            scores[f][kind] = describe(f, kind, rows[f], fits[f][kind], left)
    for f in arguments.family:
        write(f, list(FAMILIES[f]), fits[f], scores[f])
    if len(arguments.family) < len(FAMILIES) or len(arguments.only) < len(FREE):
        return
    default = {k: mean([plain[f][k] for f in FAMILIES if k in plain[f]]) for k in FREE}
    write("default", [], default, {}, "Geometric mean of the measured families' parameters.")


if __name__ == "__main__":
    main()
