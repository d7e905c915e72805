"""Models compared at equal accelerator hours instead of equal tokens or parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from ..cost.features import Array
from ..errors import InvalidInput

CLASSES_HOURS = (6.0, 12.0, 24.0, 48.0, 96.0)
"""Compute classes in hours of the reference accelerator (Languini, section 3)."""


@frozen(kw_only=True)
class Curve:
    """Loss of one model by tokens, and the tokens it trains per second on the reference device."""

    name: str
    tokens: Array
    loss: Array
    tokens_per_s: float

    def __attrs_post_init__(self) -> None:
        if len(self.tokens) < 2:
            raise InvalidInput(f"'{self.name}' has {len(self.tokens)} points; a curve needs 2.")
        if np.any(np.diff(self.tokens) <= 0):
            raise InvalidInput(f"The tokens of '{self.name}' must increase from row to row.")
        if not np.all(self.loss > 0) or not self.tokens_per_s > 0:
            raise InvalidInput(f"Losses and the throughput of '{self.name}' must be positive.")

    @property
    def hours(self) -> Array:
        """Accelerator hours of each point."""
        return self.tokens / self.tokens_per_s / 3600.0

    def loss_at(self, hours: float) -> float | None:
        """Loss after so many hours, on a line between points in log tokens and log loss.

        None outside the curve: extrapolating would compare guesses.
        """
        at = self.hours
        if not at[0] <= hours <= at[-1]:
            return None
        value = np.interp(np.log(hours), np.log(at), np.log(self.loss))
        return float(np.exp(value))

    def hours_to(self, loss: float) -> float | None:
        """Hours until the loss first falls to a value; None if it never does."""
        best = np.minimum.accumulate(self.loss)
        if loss < best[-1] or loss > best[0]:
            return None
        i = int(np.argmax(best <= loss))
        if i == 0:
            return float(self.hours[0])
        low, high = np.log(best[i - 1]), np.log(best[i])
        share = 1.0 if low == high else (np.log(loss) - low) / (high - low)
        ends = np.log(self.hours[i - 1 : i + 1])
        return float(np.exp(ends[0] + share * (ends[1] - ends[0])))


def compare(
    curves: Sequence[Curve], classes_hours: Sequence[float] = CLASSES_HOURS
) -> list[dict[str, Any]]:
    """Loss of every curve in every class, the best marked, and what the gap is worth in hours.

    `speedup` is the hours the best curve needs to reach a model's loss, under the class.

    References
    ----------
    Stanic et al. 2023, The Languini Kitchen, arXiv 2309.11197: comparison by compute class on a
    reference accelerator.
    """
    records = []
    for hours in classes_hours:
        losses = {c.name: c.loss_at(hours) for c in curves}
        known = {k: v for k, v in losses.items() if v is not None}
        if not known:
            continue
        winner = min(known, key=lambda k: known[k])
        best = next(c for c in curves if c.name == winner)
        for c in curves:
            value = losses[c.name]
            same = None if value is None else best.hours_to(value)
            records.append({
                "hours": hours, "model": c.name, "loss": value, "best": c.name == winner,
                "tokens": None if value is None else hours * 3600.0 * c.tokens_per_s,
                "speedup": None if same is None else hours / same,
            })  # fmt: skip
    if not records:
        raise InvalidInput(
            f"No curve covers any of {', '.join(f'{h:g}' for h in classes_hours)} hours. Name "
            "others with --hours."
        )
    return records


def read_curves(rows: Sequence[Mapping[str, str]]) -> list[Curve]:
    """Columns model, tokens, loss, tokens_per_s."""
    seen: dict[str, list[tuple[float, float, float]]] = {}
    for line, row in enumerate(rows, 2):
        try:
            values = tuple(float(row[k]) for k in ("tokens", "loss", "tokens_per_s"))
        except ValueError:
            raise InvalidInput(f"Line {line} holds something that is not a number.") from None
        if not all(np.isfinite(values)):
            raise InvalidInput(f"Line {line} holds a number that is not finite.")
        seen.setdefault(row["model"], []).append(values)  # type: ignore[arg-type]
    return [
        Curve(name=name, tokens=np.array([p[0] for p in points]),
              loss=np.array([p[1] for p in points]), tokens_per_s=points[0][2])
        for name, points in seen.items()
    ]  # fmt: skip
