"""Posits: rounding on the bit string, by the definition of the next longer posit."""

from __future__ import annotations

import numpy as np

from ..formats import PositFormat
from ..rounding import encode
from ._base import Record, record

SIZES = ((8, 0), (8, 2), (12, 1), (16, 1), (16, 2))
"""Bits and exponent bits: SoftPosit's and the 2022 standard's of 8 and 16 bits, and one between."""


def check() -> list[Record]:
    """The tie between codes c and c + 1 is the posit of one more bit with code 2 c + 1 (Posit
    Standard 2022, section 4.1): it goes to the even code, its neighbours to the nearer one."""
    compared = different = 0
    for n, es in SIZES:
        fmt = PositFormat(name=f"posit{n}-es{es}", n=n, es=es)
        finer = PositFormat(name=f"posit{n + 1}-es{es}", n=n + 1, es=es)
        codes = np.arange(1, (1 << (n - 1)) - 1)
        ties = finer.decode(2 * codes + 1)
        below, above = np.nextafter(ties, 0), np.nextafter(ties, np.inf)
        modulus = 1 << n
        for x, expected in ((ties, codes + codes % 2), (below, codes), (above, codes + 1)):
            for sign in (1, -1):
                compared += x.size
                got = encode(sign * x, fmt).astype(np.int64)
                different += int((got != (sign * expected) % modulus).sum())
    return [record("posits of 8, 12 and 16 bits at ties and neighbours", "bit strings", compared,
                   different)]  # fmt: skip
