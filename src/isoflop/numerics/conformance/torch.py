"""PyTorch: float32 patterns to FP8."""

from __future__ import annotations

import numpy as np

from ..rounding import encode
from ._base import Record, absent, record


def check() -> list[Record]:
    """Codes under the preset."""
    what = "encode 262,148 float32 patterns to FP8"
    try:
        import torch
    except ImportError:
        return [absent(what, "torch")]
    x = np.arange(0, 1 << 32, 16384 - 1, dtype=np.uint64).astype(np.uint32).view(np.float32)
    compared = different = 0
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"):
        peer = torch.from_numpy(x).to(getattr(torch, name)).view(torch.uint8).numpy()
        compared += x.size
        different += int((encode(x, name, like="torch-2.13") != peer).sum())
    version = str(torch.__version__)
    note = "" if version.startswith("2.13") else "the preset describes 2.13"
    return [record(what, f"torch {version}", compared, different, note)]
