"""One published number beside ours, and the tables it is derived from."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

Array = NDArray[Any]


@frozen(kw_only=True)
class Reproduced:
    """One published number beside ours.

    Attributes
    ----------
    published, ours : float
    error : float or None
        Published standard error, or that of our own fit where none is published.
    digit : float
        Half a unit of the last digit that is printed: a gap counts from there.
    ok : bool
        Within 1%, 0.2 standard errors, or the stated tolerance.
    """

    fit: str
    quantity: str
    published: float
    ours: float
    error: float | None = None
    tolerance: float = 0.01
    digit: float = 0.0
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether ours agrees."""
        return self._gap <= self.tolerance * abs(self.published) or self.strict

    @property
    def strict(self) -> bool:
        """Whether it agrees within 1% or 0.2 standard errors."""
        near = self._gap <= 0.01 * abs(self.published)
        return bool(near or (self.error is not None and self._gap <= 0.2 * self.error))

    @property
    def _gap(self) -> float:
        return max(abs(self.ours - self.published) - self.digit, 0.0)

    @property
    def refit(self) -> bool:
        """Whether the constants compared with are the catalog's own, not a paper's."""
        return self.fit.endswith("-refit")

    def row(self) -> dict[str, Any]:
        """As a plain record."""
        return {"fit": self.fit, "refit": self.refit, "quantity": self.quantity,
                "published": self.published, "ours": self.ours, "standard_error": self.error,
                "ok": self.ok, "tolerance": self.tolerance, "note": self.note}  # fmt: skip


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV, compressed or not."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    return list(csv.DictReader(text.splitlines()))


def column(rows: list[dict[str, str]], name: str) -> Array:
    return np.array([float(r[name]) for r in rows])


def standard_errors(jacobian: Array, residual: Array) -> Array:
    """Standard errors of a least-squares fit, s sqrt(diag (J'J)^-1).

    Parameters
    ----------
    jacobian : array (points, parameters)
    residual : array (points,)
    """
    variance = float(residual @ residual) / (len(residual) - jacobian.shape[1])
    return np.sqrt(variance * np.diag(np.linalg.inv(jacobian.T @ jacobian)))
