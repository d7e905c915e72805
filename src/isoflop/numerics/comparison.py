"""Formats side by side on random data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InvalidInput, UnknownName
from .allocation import pareto
from .blocks import encode_blocks
from .formats import BlockFormat
from .quantizers import load_weight_format
from .rounding import round_to

ROWS, COLUMNS = 256, 4096
DISTRIBUTIONS = ("normal", "laplace", "uniform", "student")


def sample(distribution: str, seed: int) -> np.ndarray:
    """Random float32 values of unit variance, shape (256, 4096)."""
    rng = np.random.default_rng(seed)
    shape = (ROWS, COLUMNS)
    if distribution not in DISTRIBUTIONS:
        raise UnknownName("distribution", distribution, DISTRIBUTIONS)
    x = {
        "normal": lambda: rng.standard_normal(shape),
        "laplace": lambda: rng.laplace(size=shape) / math.sqrt(2),
        "uniform": lambda: rng.uniform(-math.sqrt(3), math.sqrt(3), shape),
        "student": lambda: rng.standard_t(4, shape) / math.sqrt(2),
    }[distribution]()
    return x.astype(np.float32)


def compare_formats(names: Sequence[str], distribution: str, seed: int) -> list[dict[str, Any]]:
    """One record per format: bits, relative RMSE, SQNR, and whether another beats it in both.

    Formats that have scales in storage (see `load_weight_format`) get them here.
    """
    if not names:
        raise InvalidInput("Name at least one format, for example: mxfp4 nvfp4 nf4.")
    x = sample(distribution, seed)
    rows = []
    for name in names:
        fmt = load_weight_format(name)
        if isinstance(fmt, BlockFormat):
            y, bits = round_to(x, fmt), encode_blocks(fmt, x).storage_bytes * 8 / x.size
        else:
            y, bits = round_to(x, fmt, overflow="saturate"), fmt.bits_per_value
        error = float(((y.astype(np.float64) - x) ** 2).sum() / (x.astype(np.float64) ** 2).sum())
        sqnr = -10 * math.log10(error) if error else math.inf
        rows.append(
            {"format": fmt.name, "bits_per_value": bits, "relative_rmse": math.sqrt(error),
             "sqnr_db": sqnr, "db_per_bit": sqnr / bits}
        )  # fmt: skip
    front = pareto([(r["bits_per_value"], r["relative_rmse"]) for r in rows])
    for i, row in enumerate(rows):
        row["undominated"] = i in front
    return rows
