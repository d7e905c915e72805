"""pychop: its torch backend in the six directions that the preset reproduces."""

from __future__ import annotations

import numpy as np

from ..formats import FloatFormat, load
from ..rounding import round_to
from ._base import Record, absent, record

DIRECTIONS = {
    "nearest_even": 1, "up": 2, "down": 3, "toward_zero": 4, "nearest_zero": 7, "nearest_away": 8,
}  # fmt: skip
FORMATS = {"fp8-e4m3-ieee": (4, 3), "fp8-e5m2": (5, 2), "bf16": (8, 7)}
VALUES = 1 << 14
LEAST_EXPONENT = -90
"""Below it pychop's scaling in float32 loses a unit of some values, which the preset does not."""


def check() -> list[Record]:
    """Values over each format's range, ties and overflow among them."""
    what = "six directions of E4M3, E5M2 and bfloat16"
    try:
        import pychop
        import torch
    except ImportError:
        return [absent(what, "pychop")]
    pychop.backend("torch")
    rng = np.random.default_rng(0)
    compared = different = 0
    for name, (exponent_bits, mantissa_bits) in FORMATS.items():
        fmt = load(name)
        assert isinstance(fmt, FloatFormat)  # by its name
        low = max(fmt.min_exponent - mantissa_bits - 3, LEAST_EXPONENT)
        high = min(fmt.max_exponent + 3, 126)
        x = rng.standard_normal(VALUES) * 2.0 ** rng.uniform(low, high, VALUES)
        ties = rng.integers(-64, 64, VALUES // 4) * fmt.eps * 2.0 ** max(low, fmt.min_exponent)
        x[::4] = ties * 2.0 ** rng.integers(-1, 5, VALUES // 4)
        x = x.astype(np.float32)
        for direction, mode in DIRECTIONS.items():
            chop = pychop.Chop(exp_bits=exponent_bits, sig_bits=mantissa_bits, rmode=mode)
            peer = chop(torch.from_numpy(x.copy())).numpy()
            compared += x.size
            different += int((round_to(x, fmt, rounding=direction, like="pychop") != peer).sum())
    return [record(what, "pychop", compared, different, f"magnitudes above 2^{LEAST_EXPONENT}")]
