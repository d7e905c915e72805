"""Plane rotations without over- or underflow and with small relative error.

c, s, r with [c s; -s c] [f; g] = [r; 0]. Scaling happens only outside the safe range, so in it the
result is c = |f| / d, r = sign(d, f), s = g / r with d = sqrt(f^2 + g^2).

References
----------
Anderson, ACM TOMS 44(1), 2017 and LAPACK 3.10 la_lartg; accuracy: Bindel et al. 2002 and Borges,
arXiv 2211.04010.
"""

from __future__ import annotations

import numpy as np


def rotation(f, g) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """c, s, r of arrays f and g of the same float dtype (float32 or float64), elementwise."""
    f, g = np.broadcast_arrays(np.asarray(f), np.asarray(g))
    kind = np.result_type(f, g)
    f, g = f.astype(kind), g.astype(kind)
    info = np.finfo(kind)
    safe_min = kind.type(info.tiny)
    safe_max = kind.type(1) / safe_min
    low, high = np.sqrt(safe_min), np.sqrt(safe_max / kind.type(2))
    size_f, size_g = np.abs(f), np.abs(g)
    with np.errstate(all="ignore"):
        easy = (size_f > low) & (size_f < high) & (size_g > low) & (size_g < high)
        u = np.where(easy, kind.type(1), np.clip(np.maximum(size_f, size_g), safe_min, safe_max))
        fs, gs = f / u, g / u
        d = np.sqrt(fs * fs + gs * gs)
        c = np.abs(fs) / d
        r = np.copysign(d, f)
        s = gs / r
        r = r * u
    g_zero, f_zero = g == 0, (f == 0) & (g != 0)
    c = np.where(g_zero, kind.type(1), np.where(f_zero, kind.type(0), c))
    s = np.where(g_zero, kind.type(0), np.where(f_zero, np.copysign(kind.type(1), g), s))
    r = np.where(g_zero, f, np.where(f_zero, size_g, r))
    return c, s, r
