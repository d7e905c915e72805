"""mpmath: log of the modified Bessel functions at 40 digits."""

from __future__ import annotations

import numpy as np

from ..arithmetic import bessel
from ._base import Record, absent, record

TOLERANCE = 2e-14
POINTS = 300


def check() -> list[Record]:
    """log I and log K at random orders and arguments, relative to max(1, |log|)."""
    what = f"log I and log K to {TOLERANCE:g}"
    try:
        import mpmath
    except ImportError:
        return [absent(what, "mpmath")]
    rng = np.random.default_rng(0)
    v, x = 10 ** rng.uniform(-2, 2.5, POINTS), 10 ** rng.uniform(-2, 3, POINTS)
    different = 0
    for ours, theirs in ((bessel.log_i, mpmath.besseli), (bessel.log_k, mpmath.besselk)):
        for order, argument, got in zip(v, x, ours(v, x)):
            with mpmath.workdps(40):
                exact = mpmath.log(theirs(order, argument))
                far = abs(mpmath.mpf(float(got)) - exact) > TOLERANCE * max(abs(exact), 1)
            different += int(far)
    return [record(what, f"mpmath {mpmath.__version__}", 2 * POINTS, different)]
