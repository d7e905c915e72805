"""ml_dtypes: every code decoded, every float16 and bfloat16 encoded."""

from __future__ import annotations

import numpy as np

from ..formats import load
from ..rounding import encode
from ._base import Record, absent, record, same

ML_DTYPES = (
    "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz",
    "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float6_e2m3fn", "float6_e3m2fn",
    "float4_e2m1fn",
)  # fmt: skip


def check() -> list[Record]:
    """Codes decoded and values encoded under the preset."""
    what = "decode every code; encode all float16 and bfloat16"
    try:
        import ml_dtypes
    except ImportError:
        return [absent(what, "ml_dtypes")]
    compared = different = 0
    patterns = np.arange(65536, dtype=np.uint16)
    for name in ML_DTYPES:
        dtype, fmt = getattr(ml_dtypes, name), load(name)
        table = np.arange(fmt.code_count, dtype=np.uint8).view(dtype).astype(np.float64)
        compared += table.size
        different += int((~same(table, fmt.values)).sum())
        for source in (np.float16, ml_dtypes.bfloat16):
            x = patterns.view(source)
            with np.errstate(all="ignore"):
                peer = x.astype(dtype).view(np.uint8)
            compared += x.size
            different += int((encode(x, fmt, like="ml_dtypes") != peer).sum())
    return [record(what, f"ml_dtypes {ml_dtypes.__version__}", compared, different)]
