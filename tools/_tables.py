"""Measured kernel tables and the fit of one kernel model over the devices of a family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from _fitting import fit, held_out, quality
from isoflop.cost.kernels import DeviceShape
from isoflop.hardware import load_accelerator

TABLES = "operators/aiconfigurator"
SAMPLE = 4000
"""Rows per device and kernel: enough for a dozen parameters, and the fit stays in minutes."""

Columns = dict[str, np.ndarray]


def read(
    path: Path, keys: list[str], keep: Callable[[pa.Table], pa.Table] | None = None
) -> Columns:
    """Columns of a table, the fastest of repeated shapes, at most SAMPLE rows."""
    table = pq.read_table(path)
    if keep is not None:
        table = keep(table)
    if "window_size" in keys and "window_size" not in table.column_names:
        table = table.append_column("window_size", pa.array(np.zeros(len(table), np.int64)))
    grouped = (
        table.group_by(keys)
        .aggregate([("latency", "min")])
        .sort_by([(k, "ascending") for k in keys])
    )
    columns = {k: np.asarray(grouped[k].to_pylist()) for k in [*keys, "latency_min"]}
    columns["seconds"] = columns.pop("latency_min").astype(float) * 1e-3
    count = len(columns["seconds"])
    if count > SAMPLE:
        pick = np.sort(np.random.default_rng(7).choice(count, SAMPLE, replace=False))
        columns = {k: v[pick] for k, v in columns.items()}
    return columns


def only(column: str, value: str) -> Callable[[pa.Table], pa.Table]:
    """Keep rows where `column` equals `value`."""
    return lambda t: t.filter(pc.equal(t[column], value))


class Problem:
    """One kernel model over the devices of a family."""

    def __init__(
        self,
        data: dict[str, Columns],
        predict: Any,
        build: Any,
        start: Any,
        low: Any,
        high: Any,
        shape: list[str],
        scale: float = 0.1,
    ):
        self.data, self.predict, self.build = data, predict, build
        self.foreign = predict  # with the parameters of another family's devices
        self.start, self.low, self.high, self.scale = start, low, high, scale
        self.held = {d: held_out(*(c[k] for k in shape)) for d, c in data.items()}

    def errors(
        self, x: np.ndarray, device: str, mask: np.ndarray, predict: Any = None
    ) -> np.ndarray:
        """log(predicted / measured) of the masked rows."""
        rows = {k: v[mask] for k, v in self.data[device].items()}
        shape = DeviceShape.of(load_accelerator(device))
        seconds = (predict or self.predict)(self.build(x), shape, device, rows)
        return np.log(seconds / rows["seconds"])

    def foreign_error(self, x: np.ndarray) -> float:
        """Largest median error of a device predicted with another family's parameters."""
        return max(
            float(np.median(np.abs(np.expm1(self.errors(x, d, self.held[d], self.foreign)))))
            for d in self.data
        )

    def solve(self, devices: list[str]) -> np.ndarray:
        """Fit on the fit rows of some devices."""
        return fit(
            lambda x: np.concatenate([self.errors(x, d, ~self.held[d]) for d in devices]),
            self.start,
            self.low,
            self.high,
            self.scale,
        )

    def run(
        self, name: str, note: str, others: Problem | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Fit on all devices, evaluate held-out rows and leave-one-device-out errors.

        A device alone in its family is predicted with the parameters of `others`.
        """
        devices = list(self.data)
        x = self.solve(devices)
        error = np.concatenate([self.errors(x, d, self.held[d]) for d in devices])
        left = []
        if len(devices) > 1:
            for d in devices:
                other = self.solve([o for o in devices if o != d])
                left.append(np.median(np.abs(np.expm1(self.errors(other, d, self.held[d])))))
        elif others is not None:
            left = [self.foreign_error(others.solve(list(others.data)))]
        rows = sum(int((~h).sum()) for h in self.held.values())
        q = quality(error, rows, note, max(left, default=0.0))
        print(
            f"  {name:22s} {q['rows']:6d} rows  median {q['median_error']:.1%}  mean "
            f"{q['mean_error']:.1%}  p90 {q['p90_error']:.1%}  left out {q['left_out_error']:.1%}  "
            f"coverage {q['coverage']:.0%}",
            flush=True,
        )
        return self.build(x), q
