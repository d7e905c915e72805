"""Fit each serving engine's overheads to end-to-end TPOT and TTFT and write its calibration file.

    python tools/calibrate_engines.py --data ../shared/data
    python tools/calibrate_engines.py --data ../shared/data --left-out

Only rows whose role is "fit" are used: configurations (engine, device, model, plan) chosen by a
hash, so that no configuration is on both sides. `isoflop validate` reports the others.

`--left-out` writes nothing: it refits without each engine, device, model family and release in
turn and prints the errors on what was left out. Prior widths were chosen by it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from _engine_rows import Rows, model_of, read_rows
from isoflop.cost.engines import Engine
from isoflop.cost.interval import Z90

OUT = Path(__file__).resolve().parents[1] / "src/isoflop/data/calibrations"
ENGINES = ("trtllm", "sglang", "vllm")
FAMILIES = ("hopper", "blackwell")

FIRST_WEIGHT = 0.25
"""Weight of a TTFT's log error against a TPOT's: it scatters about four times as much."""

PARAMETERS = (
    # name, start, low, high, width of the prior around the pooled engine
    ("step", 0.5e-3, 0.0, 6e-3, 0.25e-3),
    ("sequence", 8e-6, 0.0, 60e-6, 5e-6),
    ("layer", 20e-6, 0.0, 60e-6, 5e-6),
    ("prefill_scale", 1.0, 0.6, 1.8, 0.08),
    ("hopper", 1.0, 0.6, 1.8, 0.06),
    ("blackwell", 1.0, 0.6, 1.8, 0.06),
    ("captured", 0.4, 0.0, 1.0, 0.01),
    ("arrival", 20e-3, 0.0, 0.4, 15e-3),
    ("burst", 0.2, 0.0, 1.0, 0.1),
    ("lag_steps", 4.0, 0.0, 12.0, 2.0),
    ("acceptance", 0.6, 0.3, 0.95, 0.05),
)
"""What is fitted. The pooled engine is held to the starting values by four times the widths."""

LEAST_SIGMA = 0.1
"""Least spread of an engine: on machines, models and releases left out of the fit, errors exceed
those of the kernels' models."""

PRIOR = 0.1
"""Log error of a row that weighs as much as a parameter one width from its centre."""


def engine(name: str, x: np.ndarray, sigma: float = 0.1) -> Engine:
    """An engine from a parameter vector."""
    # Below a nanosecond a fitted time is none.
    v = {p[0]: float(value) * (value > 1e-9) for p, value in zip(PARAMETERS, x, strict=True)}
    return Engine(
        id=f"engine-{name}",
        step_s=v["step"],
        sequence_s=v["sequence"],
        layer_s=v["layer"],
        prefill_scale=v["prefill_scale"],
        kernel_scale={f: v[f] for f in FAMILIES},
        captured=v["captured"],
        arrival_s=v["arrival"],
        burst=v["burst"],
        lag_steps=v["lag_steps"],
        sigma=sigma,
        fitted_on="",
        source="estimate",
    )


def fit_engine(rows: Rows, center: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Soft-L1 fit of one engine, held to `center`.

    A series of one model on one device shares what it does not tell, so n of its rows count as
    the square root of n.
    """
    low, high = (np.array([p[k] for p in PARAMETERS]) for k in (2, 3))
    series = [(c.engine, c.device, model_of(c)) for c in rows.cases]
    size = Counter(series)
    weight = np.array([size[s] ** -0.25 for s in series])
    weight /= np.sqrt(np.mean(weight**2))
    strength = PRIOR * np.sqrt(len(rows.cases) / 100.0)

    def residual(x: np.ndarray) -> np.ndarray:
        tpot, first, _ = rows.errors(engine("", x), acceptance=float(x[-1]))
        held = strength * (x - center) / widths
        return np.concatenate([weight * tpot, FIRST_WEIGHT * weight * first, held])

    inside = np.clip(center, low + 1e-3 * (high - low), high - 1e-3 * (high - low))
    result = least_squares(
        residual, inside, bounds=(low, high), loss="soft_l1", f_scale=0.1, diff_step=1e-3,
        x_scale=widths, max_nfev=40,
    )  # fmt: skip
    return result.x


def fit_all(rows: Rows) -> dict[str, np.ndarray]:
    """The pooled engine, then each engine held to it; one with few rows is the pooled one."""
    start, widths = (np.array([p[k] for p in PARAMETERS]) for k in (1, 4))
    found = {"default": fit_engine(rows, start, 4.0 * widths)}
    for name in ENGINES:
        mine = rows.where(rows.of("engine") == name)
        few = len(mine.cases) < FEWEST
        found[name] = found["default"] if few else fit_engine(mine, found["default"], widths)
    return found


FEWEST = 15
"""Rows below which an engine has no parameters of its own."""


def errors(rows: Rows, found: dict[str, np.ndarray]) -> np.ndarray:
    """`Rows.errors`, each row under its own engine."""
    out = np.zeros((3, len(rows.cases)))
    for name in ENGINES:
        mask = rows.of("engine") == name
        if mask.any():
            x = found[name]
            out[:, mask] = rows.where(mask).errors(engine(name, x), float(x[-1]))
    return out


def own_sigma(tpot: np.ndarray, kernel_sigma: np.ndarray) -> float:
    """Spread that, with that of the kernels' models, holds 90% of the rows."""
    sigmas = np.linspace(0.0, 0.5, 501)
    total = np.hypot(sigmas[:, None], kernel_sigma)
    held = np.mean(np.abs(tpot) <= Z90 * total, axis=1)
    return float(sigmas[np.argmax(held >= 0.9)])


def left_out(rows: Rows) -> None:
    """Errors on engines, devices, model families and releases that were not fitted on."""
    kinds = {
        "engine": rows.of("engine"),
        "device": rows.of("device"),
        "model family": np.array([model_of(c) for c in rows.cases]),
        "release": np.array([f"{c.engine} {c.release or 'unstated'}" for c in rows.cases]),
    }
    fitted = rows.of("role") == "fit"
    print(
        f"{'left out':34s} rows   TPOT median   mean   held  constant    TTFT            tokens/s"
    )
    for kind, label in kinds.items():
        made = []
        for group in np.unique(label):
            out = label == group
            if out.sum() >= FEWEST:
                made.append(_held(rows.where(~out & fitted), rows.where(out)))
                print(_line(f"{kind} {group}", made[-1:]), flush=True)
        print(_line(f"every {kind}", made), flush=True)
    print(_line("configurations (role check)", [_held(rows.where(fitted), rows.where(~fitted))]))


def _held(known: Rows, unknown: Rows) -> np.ndarray:
    """Rows: errors of TPOT, TTFT and tokens per second, within the interval, constant's error."""
    found = fit_all(known)
    sigma = max(own_sigma(errors(known, found)[0], known.values["kernel_sigma"]), LEAST_SIGMA)
    e, measured = errors(unknown, found), unknown.values["tpot_s"]
    inside = np.abs(e[0]) <= Z90 * np.hypot(sigma, unknown.values["kernel_sigma"])
    return np.vstack([np.abs(np.expm1(e)), inside, np.abs(np.median(measured) / measured - 1.0)])


def _line(name: str, made: list[np.ndarray]) -> str:
    """One line of `left_out`; the constant is the best single one of what was left out."""
    tpot, first, rate, inside, constant = np.concatenate(made, axis=1)
    first = first[first > 0]
    return (
        f"{name:34s} {len(tpot):4d}   {np.median(tpot):8.1%}   {tpot.mean():6.1%}"
        f"   {inside.mean():4.0%}   {constant.mean():6.0%}"
        f"   {np.median(first):5.1%} / {first.mean():5.1%}"
        f"   {np.median(rate):5.1%} / {rate.mean():5.1%}"
    )


def write(name: str, x: np.ndarray, sigma: float, count: int, more: str = "") -> None:
    """The calibration file of one engine; `more` lines join its own."""
    e = engine(name, x)
    scale = "\n".join(f"{f} = {v:.4g}" for f, v in e.kernel_scale.items())
    (OUT / f"engine-{name}.toml").write_text(
        f"""step = {e.step_s:.4g}
sequence = {e.sequence_s:.4g}
layer = {e.layer_s:.4g}
prefill_scale = {e.prefill_scale:.4g}
captured = {e.captured:.4g}
arrival = {e.arrival_s:.4g}
burst = {e.burst:.4g}
lag_steps = {e.lag_steps:.4g}
sigma = {sigma:.3f}
rows = {count}
{more}fitted_on = "TPOT and TTFT of configurations with role fit"
source = "silicon"

[kernel_scale]
{scale}

[sources.silicon]
title = "ai-dynamo/aiconfigurator end-to-end measurements (Apache-2.0)"
locator = "commit 095f58a5, silicon_agg"
date = "2026"
"""
    )


def main() -> None:
    """Fit the pooled engine and every engine of the silicon table, or leave groups out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--left-out", action="store_true", help="print errors on groups left out")
    arguments = parser.parse_args()
    rows = read_rows(arguments.data / "serving/silicon_agg.csv")
    if arguments.left_out:
        left_out(rows)
        return
    known = rows.where(rows.of("role") == "fit")
    found = fit_all(known)
    for name, x in found.items():
        mine = known if name == "default" else known.where(known.of("engine") == name)
        tpot, first, _ = mine.errors(engine(name, x), float(x[-1]))
        sigma = max(own_sigma(tpot, mine.values["kernel_sigma"]), LEAST_SIGMA)
        write(name, x, sigma, len(mine.cases))
        if name == "vllm":
            write("vllm-padded", x, sigma, len(mine.cases), "padded_experts = true\n")
        values = "  ".join(f"{p[0]} {v:.4g}" for p, v in zip(PARAMETERS, x, strict=True))
        print(
            f"{name:8s} {len(tpot):5d} rows  median {np.median(np.abs(np.expm1(tpot))):.1%}  "
            f"mean {np.mean(np.abs(np.expm1(tpot))):.1%}  sigma {sigma:.3f}  "
            f"TTFT median {np.median(np.abs(np.expm1(first))):.1%}\n    {values}"
        )


if __name__ == "__main__":
    main()
