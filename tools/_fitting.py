"""What the calibration tools share: splits by shape, robust fits, error summaries, TOML text."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
from scipy.optimize import least_squares

Residual = Callable[[np.ndarray], np.ndarray]


def held_out(*columns: Sequence[Any], share: float = 0.4) -> np.ndarray:
    """A mask of rows to hold out, decided by a hash of each row's shape: one shape, one side."""
    keys = zip(*columns, strict=True)
    return np.array([zlib.crc32(repr(k).encode()) % 1000 < 1000 * share for k in keys])


def fit(
    residual: Residual, start: Sequence[float], low: Sequence[float], high: Sequence[float],
    scale: float = 0.1,
) -> np.ndarray:  # fmt: skip
    """Bounded soft-L1 least squares of log errors, the better of two starts."""
    x0, lo, hi = (np.asarray(v, float) for v in (start, low, high))
    best = None
    for factor in (1.0, 0.6):
        x = np.clip(x0 * factor, lo + 1e-6 * (hi - lo), hi - 1e-6 * (hi - lo))
        result = least_squares(
            residual, x, bounds=(lo, hi), loss="soft_l1", f_scale=scale, diff_step=1e-3,
            max_nfev=120,
        )  # fmt: skip
        if best is None or result.cost < best.cost:
            best = result
    assert best is not None
    return best.x


def quality(log_error: np.ndarray, rows: int, data: str, left_out: float = 0.0) -> dict[str, Any]:
    """Summary of log(predicted / measured) on held-out rows."""
    error = np.abs(np.expm1(log_error))
    low, high = np.quantile(log_error, [0.05, 0.95])
    sigma = float((high - low) / (2 * 1.6449))
    inside = np.abs(log_error) <= 1.6449 * sigma
    return {
        "rows": int(rows), "held_out": len(error), "median_error": float(np.median(error)),
        "mean_error": float(error.mean()), "p90_error": float(np.quantile(error, 0.9)),
        "left_out_error": float(left_out), "sigma": sigma, "coverage": float(inside.mean()),
        "data": data,
    }  # fmt: skip


def toml_table(name: str, values: Any) -> str:
    """One TOML table from an attrs instance or a dict, four significant digits."""
    record = attrs.asdict(values) if attrs.has(type(values)) else dict(values)
    lines = [f"[{name}]"]
    for key, value in record.items():
        if isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, float):
            text = f"{value:.4g}"
            if "." not in text and "e" not in text:
                text += ".0"
        elif isinstance(value, str):
            text = '"' + value.replace('"', "'") + '"'
        elif isinstance(value, tuple):
            text = str(value).replace("(", "[").replace(")", "]").replace(",]", "]")
        else:
            text = str(value)
        lines.append(f"{key} = {text}")
    return "\n".join(lines) + "\n"
