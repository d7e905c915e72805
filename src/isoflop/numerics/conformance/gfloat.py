"""gfloat: every code of every small P3109 format."""

from __future__ import annotations

import numpy as np

from ..formats import p3109
from ._base import Record, absent, record, same


def check() -> list[Record]:
    """Values of all codes."""
    what = "decode every P3109 code, K = 3 to 8"
    try:
        from gfloat import Domain, Signedness, decode_float
        from gfloat.formats import format_info_p3109
    except ImportError:
        return [absent(what, "gfloat")]
    compared = different = 0
    for k in range(3, 9):
        for p in range(1, k + 1):
            for signed in (True, False):
                for extended in (True, False):
                    sign = Signedness.Signed if signed else Signedness.Unsigned
                    domain = Domain.Extended if extended else Domain.Finite
                    info = format_info_p3109(k, p, sign, domain)
                    peer = np.array([decode_float(info, c).fval for c in range(1 << k)])
                    ours = p3109(k, p, signed=signed, extended=extended).values
                    compared += peer.size
                    different += int((~same(peer, ours)).sum())
    return [record(what, "gfloat", compared, different)]
