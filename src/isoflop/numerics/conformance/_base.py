"""Records of conformance checks, and equality of values."""

from __future__ import annotations

from typing import Any

import numpy as np

Record = dict[str, Any]


def record(check: str, against: str, compared: int, different: int, note: str = "") -> Record:
    """What was compared with what, how many values, and how many differ."""
    return {
        "check": check, "against": against, "compared": int(compared),
        "different": int(different), "note": note,
    }  # fmt: skip


def absent(check: str, against: str) -> Record:
    """A peer that is not installed."""
    return record(check, against, 0, 0, "not installed")


def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Equal with the sign of zero, NaN equal to NaN."""
    return (a == b) & (np.signbit(a) == np.signbit(b)) | (np.isnan(a) & np.isnan(b))
