"""microxcaling: MX blocks of every element by its own floor of a float32 logarithm.

No package index carries it: clone microsoft/microxcaling and put its folder on PYTHONPATH. The
sign of a zero is not compared: the library drops that of a zero input.
"""

from __future__ import annotations

import importlib

import numpy as np

from ..rounding import round_to
from ._base import Record, absent, record

ELEMENTS = {
    "mxfp8-e4m3": "fp8_e4m3", "mxfp8-e5m2": "fp8_e5m2", "mxfp6-e3m2": "fp6_e3m2",
    "mxfp6-e2m3": "fp6_e2m3", "mxfp4": "fp4_e2m1", "mxint8": "int8",
}  # fmt: skip
BLOCK = 32
ROWS = 4096


def values(seed: int = 0, rows: int = ROWS) -> np.ndarray:
    """Blocks (rows, 32) over sixty octaves: random, many ties, maxima just below a power, zeros.

    The last two are what separates the library from the standard: its logarithm rounds a maximum
    just below a power of two up to it.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, BLOCK)) * 2.0 ** rng.integers(-30, 30, (rows, 1))
    x[::3] = np.rint(x[::3] * 8 / np.abs(x[::3]).max(-1, keepdims=True)) / 4
    x[5::7, 0] = 2.0 ** rng.integers(1, 30, x[5::7, 0].shape) * (1 - 2.0**-24)
    x[1] = 0
    return x.astype(np.float32)


def check() -> list[Record]:
    """Rounded values of blocks."""
    what = "MXFP8, MXFP6, MXFP4 and MXINT8 blocks"
    try:
        import torch

        mx = importlib.import_module("mx.mx_ops")
        formats = importlib.import_module("mx.formats").ElemFormat
    except ImportError:
        return [absent(what, "microxcaling")]
    x = values()
    compared = different = 0
    for name, element in ELEMENTS.items():
        peer = mx._quantize_mx(
            torch.from_numpy(x.copy()), 8, formats.from_str(element), axes=[-1], block_size=BLOCK
        ).numpy()
        compared += x.size
        different += int((round_to(x, name, like="microxcaling") != peer).sum())
    return [record(what, "microxcaling", compared, different, "zeros without their sign")]
