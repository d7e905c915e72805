"""What a quantization did: errors, bytes and outliers, per layer and in total."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from attrs import asdict, evolve, field, frozen

OUTLIER_SIGMAS = 6.0
"""A weight beyond so many root mean squares counts as an outlier."""

TOP_CHANNELS = 5

CHUNK = 1 << 21
"""Weights compared at a time in float64."""


@frozen(kw_only=True)
class Sums:
    """Sums over weights, from which every relative measure follows; they add up over layers."""

    count: int = 0
    weight2: float = 0.0
    error2: float = 0.0
    dot: float = 0.0
    value2: float = 0.0
    output2: float = 0.0
    output_error2: float = 0.0
    max_error: float = 0.0
    storage_bytes: int = 0
    original_bytes: int = 0
    outliers: int = 0

    def __add__(self, other: Sums) -> Sums:
        mine, theirs = asdict(self), asdict(other)
        summed = {k: mine[k] + theirs[k] for k in mine if k != "max_error"}
        return Sums(**summed, max_error=max(self.max_error, other.max_error))

    @property
    def relative_rmse(self) -> float:
        """||Q - W|| / ||W||."""
        return math.sqrt(self.error2 / self.weight2) if self.weight2 else 0.0

    @property
    def sqnr_db(self) -> float:
        """10 log10(||W||^2 / ||Q - W||^2)."""
        return 10 * math.log10(self.weight2 / self.error2) if self.error2 else math.inf

    @property
    def cosine(self) -> float:
        """Cosine between weights and quantized weights."""
        product = self.weight2 * self.value2
        return self.dot / math.sqrt(product) if product else 1.0

    @property
    def relative_output_rmse(self) -> float:
        """Hessian-weighted: ||X (Q - W)^T|| / ||X W^T|| over the calibration inputs."""
        return math.sqrt(self.output_error2 / self.output2) if self.output2 else 0.0

    @property
    def bits_per_weight(self) -> float:
        """Stored bits over weights, to the byte."""
        return 8 * self.storage_bytes / self.count if self.count else 0.0


@frozen(kw_only=True)
class LayerReport:
    """One quantized tensor.

    Attributes
    ----------
    calibrated : bool
        Whether the output error used real inputs; without, it equals the weight error.
    peak_over_rms : float
        Largest weight over the root mean square.
    outlier_channels : tuple of int
        Input channels with the most outliers, worst first.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    method: str
    sums: Sums
    calibrated: bool = False
    peak_over_rms: float = 0.0
    outlier_channels: tuple[int, ...] = ()
    facts: dict[str, Any] = field(factory=dict)
    notes: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """A plain record."""
        return {
            "name": self.name, "shape": list(self.shape), "format": self.format,
            "method": self.method, **measures(self.sums), "calibrated": self.calibrated,
            "outliers": self.sums.outliers, "peak_over_rms": self.peak_over_rms,
            "outlier_channels": list(self.outlier_channels), "facts": dict(self.facts),
            "notes": list(self.notes),
        }  # fmt: skip


def measures(sums: Sums) -> dict[str, float]:
    """The relative measures of some sums, as a plain record."""
    return {
        "relative_rmse": sums.relative_rmse, "sqnr_db": sums.sqnr_db,
        "max_error": sums.max_error, "cosine": sums.cosine,
        "relative_output_rmse": sums.relative_output_rmse,
        "bits_per_weight": sums.bits_per_weight, "storage_bytes": sums.storage_bytes,
        "original_bytes": sums.original_bytes,
    }  # fmt: skip


@frozen(kw_only=True)
class QuantizationReport:
    """All layers of a checkpoint.

    Attributes
    ----------
    layers : tuple of LayerReport
    kept : tuple of str
        Tensors copied unchanged.
    kept_bytes : int
    """

    source: str
    format: str
    method: str
    layers: tuple[LayerReport, ...]
    kept: tuple[str, ...] = ()
    kept_bytes: int = 0

    @property
    def total(self) -> Sums:
        """Sums over the quantized layers."""
        return sum((layer.sums for layer in self.layers), Sums())

    @property
    def notes(self) -> dict[str, int]:
        """Every sentence of the layers and how many layers said it."""
        counts: dict[str, int] = {}
        for layer in self.layers:
            for note in layer.notes:
                counts[note] = counts.get(note, 0) + 1
        return counts

    def rows(self) -> list[dict[str, Any]]:
        """One plain record per layer."""
        return [layer.row() for layer in self.layers]


def compare(weight: np.ndarray, result: Any, calibration: Any, original_bytes: int) -> Sums:
    """The sums of one quantized weight; `weight` float32, `result` a Quantized."""
    total = Sums(storage_bytes=result.storage_bytes, original_bytes=original_bytes)
    rows = max(1, CHUNK // weight.shape[1])
    for first in range(0, len(weight), rows):
        part = slice(first, first + rows)
        total += _compared(weight[part], result.values[part], calibration)
    rms = math.sqrt(total.weight2 / weight.size)
    outliers = int((np.abs(weight) > OUTLIER_SIGMAS * rms).sum()) if rms else 0
    return evolve(total, outliers=outliers)


def _compared(weight: np.ndarray, values: np.ndarray, calibration: Any) -> Sums:
    w, v = weight.astype(np.float64), values.astype(np.float64)
    error = v - w
    error2, weight2 = float(np.vdot(error, error)), float(np.vdot(w, w))
    output_error2, output2 = error2, weight2
    if calibration.rows:
        h = calibration.hessian
        output_error2 = float(np.einsum("ij,ij->", error @ h, error))
        output2 = float(np.einsum("ij,ij->", w @ h, w))
    return Sums(
        count=w.size, weight2=weight2, error2=error2, dot=float(np.vdot(w, v)),
        value2=float(np.vdot(v, v)), output2=output2, output_error2=output_error2,
        max_error=float(np.abs(error).max()),
    )  # fmt: skip


def outlier_map(weight: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """Peak over root mean square, and the input channels with the most outliers."""
    rms = math.sqrt(float(np.mean(np.square(weight), dtype=np.float64)))
    if rms == 0:
        return 0.0, ()
    counts = (np.abs(weight) > OUTLIER_SIGMAS * rms).sum(0)
    worst = np.argsort(-counts, kind="stable")[:TOP_CHANNELS]
    return float(np.abs(weight).max()) / rms, tuple(int(i) for i in worst if counts[i])
