"""Fit what training steps add to the kernel models, per device family, on whole sources.

The parameters are physical factors near one, held towards their defaults by a weak prior, so that
few rows cannot pull them far. Sources marked `check` are never read.

    python tools/calibrate_training.py --data ../shared/data
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from attrs import evolve
from scipy.optimize import least_squares

from isoflop.evidence.read import read_cases
from isoflop.evidence.training_predict import TrainingPredictor
from isoflop.training.calibration import TrainingCalibration

OUT = Path(__file__).resolve().parents[1] / "src/isoflop/data/calibrations"
SINGLE_NODE_STEP = 12
"""Every how manieth row of the large single-node table is read: it must not outvote the rest."""
TIMED = ("step_s", "training_tokens_per_s", "flop_per_s_per_device", "model_flop_utilization")
BOUNDS = {
    "gemm": (0.9, 1.6), "gemm_fp8": (0.8, 2.0), "gemm_fp4": (0.8, 2.5), "attention": (0.7, 2.0),
    "attention_backward": (0.8, 2.5), "attention_older": (1.0, 3.0), "stream": (0.6, 2.5),
    "eager": (1.0, 5.0), "stream_backward": (0.7, 2.5), "experts": (0.8, 3.0), "scan": (1.0, 40.0),
    "exchange": (0.08, 1.0), "exchange_fused": (0.2, 1.0), "scale_up": (0.35, 0.95),
    "network": (0.7, 0.95), "ramp": (1e5, 3e7), "contention": (0.0, 0.6),
    "launch": (1e-6, 2e-4), "launch_traced": (1e-6, 4e-4), "skew_traced": (0.0, 0.5),
    "step": (1e-4, 3e-2),
    "straggler": (0.0, 0.03), "power_exponent": (0.3, 0.6),
}  # fmt: skip
FITTED = {
    "ampere": ("gemm", "attention", "attention_backward", "stream", "eager", "stream_backward",
               "scale_up", "network", "ramp", "contention", "launch", "launch_traced",
               "skew_traced", "step", "straggler"),
    "hopper": ("gemm", "gemm_fp8", "attention", "attention_backward", "attention_older", "stream",
               "eager", "stream_backward", "experts", "scan", "exchange", "exchange_fused",
               "scale_up", "network", "ramp", "contention", "launch", "step", "straggler"),
    "blackwell": ("gemm", "gemm_fp8", "gemm_fp4", "attention", "attention_backward", "stream",
                  "experts", "scan", "exchange", "exchange_fused", "scale_up", "network", "ramp",
                  "contention", "launch", "step", "power_exponent"),
}  # fmt: skip
WATTS = {"ampere": 400 / 312e12, "hopper": 700 / 989.4e12, "blackwell": 1400 / 2500e12}
PRIOR_WEIGHT = 0.6
"""Residual of a parameter one e-fold from its default, against log errors over their scale."""
ERROR_SCALE = 0.08


def publisher(case) -> str:
    """Whose row it is: the releases of one framework's table count as one source."""
    return case.source.split()[0]


def left_out(family: str, cases: list) -> tuple[list, np.ndarray]:
    """Rows of every publisher, and their log errors under a fit that never saw it."""
    mine = [c for c in cases if c.training.device.family == family]
    rows, out = [], []
    for name, count in sorted(Counter(publisher(c) for c in mine).items()):
        fitted, _ = fit_family(family, [c for c in mine if publisher(c) != name])
        rows += [c for c in mine if publisher(c) == name]
        out.append(log_errors(family, fitted, rows[-count:]))
    return rows, np.concatenate(out)


def has_experts(case) -> bool:
    """Whether a row's model routes tokens to experts, whose exchange and balance vary more."""
    return any(g.ffn.kind == "moe" for g in case.training.job.model.layers)


def spread(cases: list, errors: np.ndarray, experts: bool) -> float:
    """Standard deviation of which 90% of the errors keep within 1.64, every source alike."""
    kept = [i for i, c in enumerate(cases) if has_experts(c) == experts]
    if not kept:
        return 0.0
    counts = Counter(cases[i].source for i in kept)
    size = np.abs(errors[kept])
    order = np.argsort(size)
    weight = np.cumsum([1.0 / counts[cases[kept[i]].source] for i in order])
    return float(size[order][np.searchsorted(weight, 0.9 * weight[-1])] / 1.6449)


def log_errors(family: str, calibration: TrainingCalibration, cases: list) -> np.ndarray:
    """log(predicted / measured) time of every case."""
    predictor = TrainingPredictor({family: calibration})
    ratio = [np.log(predictor.value(c.training, c.metric) / c.measured) for c in cases]
    return np.array([r if c.metric == "step_s" else -r for r, c in zip(ratio, cases)])


def fit_family(family: str, cases: list) -> tuple[TrainingCalibration, np.ndarray]:
    """Parameters of one family and the log errors they leave."""
    names = FITTED[family]
    start = TrainingCalibration(
        id=f"training-{family}", family=family, watts_per_flop_per_s=WATTS[family], source="rows"
    )
    mine = [c for c in cases if c.training.device.family == family]
    predictor = TrainingPredictor()
    counts: dict[str, int] = {}
    for c in mine:
        counts[c.source] = counts.get(c.source, 0) + 1
    weight = np.array([counts[c.source] ** -0.25 for c in mine])
    weight = weight / weight.mean()
    first = np.array([getattr(start, n) for n in names])

    def build(x: np.ndarray) -> TrainingCalibration:
        return evolve(start, **dict(zip(names, x.tolist(), strict=True)))

    def errors(x: np.ndarray) -> np.ndarray:
        predictor.calibrations = {family: build(x)}
        out = []
        for c in mine:
            ratio = np.log(predictor.value(c.training, c.metric) / c.measured)
            out.append(ratio if c.metric == "step_s" else -ratio)
        return np.array(out)

    scale = np.maximum(first, 1e-12)

    def residuals(u: np.ndarray) -> np.ndarray:
        prior = PRIOR_WEIGHT * np.log(np.maximum(u, 1e-3))
        return np.concatenate([weight * errors(u * scale) / ERROR_SCALE, prior])

    low, high = (np.array([BOUNDS[n][i] for n in names]) / scale for i in (0, 1))
    # From where launches are seen: where the device hides them, their slope is zero.
    begin = np.array([2.5 if n == "launch" else 1.0 for n in names])
    begin = np.clip(begin, low * 1.001 + 1e-9, high * 0.999)
    result = least_squares(
        residuals, begin, bounds=(low, high), loss="soft_l1", max_nfev=14, diff_step=0.02
    )
    x = result.x * scale
    return build(x), errors(x)


def write(
    family: str, c: TrainingCalibration, sigma: tuple[float, float], rows: int, sources: list[str]
) -> None:
    """One TOML file."""
    lines = [f'family = "{family}"']
    names = (*FITTED[family], "watts_per_flop_per_s")
    lines += [f"{name} = {getattr(c, name):.4g}" for name in names]
    lines += [
        f"sigma = {sigma[0]:.3f}", f"sigma_experts = {sigma[1]:.3f}", f"rows = {rows}",
        f'fitted_on = "{"; ".join(s.replace(chr(34), "") for s in sources)}"', 'source = "rows"',
        "", "[sources.rows]", 'title = "Published training measurements named in fitted_on"',
        'locator = "step times, tokens per second and FLOP rates of stated plans"',
        'date = "2020 to 2026"',
    ]  # fmt: skip
    (OUT / f"training-{family}.toml").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Fit every family that has fitted sources."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--family", default="")
    args = parser.parse_args()
    folder = args.data / "training"
    cases = read_cases(folder / "measurements.csv")
    cases += read_cases(folder / "vtrain_single_node.csv")[::SINGLE_NODE_STEP]
    cases = [c for c in cases if c.role == "fit" and not c.reason and c.metric in TIMED]
    for family in FITTED if not args.family else [args.family]:
        c, errors = fit_family(family, cases)
        sources = sorted({x.source for x in cases if x.training.device.family == family})
        rows, outside = left_out(family, cases)
        mine = [x for x in cases if x.training.device.family == family]
        # The spread a new source shows, of which the fitted ones are a part.
        both = mine + rows, np.concatenate([errors, outside])
        sigma = spread(*both, experts=False), spread(*both, experts=True)
        write(family, c, sigma, len(errors), sources)
        print(
            f"{family}: {len(errors)} rows, mean {np.mean(np.abs(np.expm1(errors))):.1%}, "
            f"median {np.median(np.abs(errors)):.1%}, left out "
            f"{np.mean(np.abs(np.expm1(outside))):.1%}, sigma {sigma[0]:.3f}, {sigma[1]:.3f}",
            {n: round(getattr(c, n), 6) for n in FITTED[family]}, flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
