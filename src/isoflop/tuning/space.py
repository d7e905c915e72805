"""Search spaces: named settings on linear, logarithmic, logit or whole-number scales."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from attrs import field, frozen

from ..cost.features import Array
from ..errors import InvalidInput

Scale = Literal["linear", "log", "logit", "integer", "choice"]
Config = dict[str, float | int | str]


@frozen(kw_only=True)
class Setting:
    """One setting.

    Attributes
    ----------
    low, high : float
        Ends of the range; a search may leave it only where `open_ended`.
    start : float or None
        Where a local search begins; the middle of the range if None.
    choices : tuple
        Values of a choice; its order carries no meaning.
    active_if : (str, value) or None
        Only matters where another setting has a value.
    """

    name: str
    scale: Scale
    low: float = 0.0
    high: float = 1.0
    start: float | None = None
    choices: tuple[str, ...] = ()
    active_if: tuple[str, Any] | None = None

    def __attrs_post_init__(self) -> None:
        if self.scale == "choice":
            if len(self.choices) < 2:
                raise InvalidInput(f"The choice '{self.name}' needs at least two values.")
            return
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InvalidInput(
                f"The setting '{self.name}' goes from {self.low} to {self.high}; its low end must "
                "be below its high end."
            )
        if self.scale == "log" and self.low <= 0:
            raise InvalidInput(f"'{self.name}' is on a log scale, so its low end must be above 0.")
        if self.scale == "logit" and not 0 < self.low < self.high < 1:
            raise InvalidInput(f"'{self.name}' is on a logit scale: keep it between 0 and 1.")

    def _curve(self, value: float) -> float:
        if self.scale in ("log",) or (self.scale == "integer" and self.low > 0):
            return math.log(value)
        if self.scale == "logit":
            return math.log(value / (1.0 - value))
        return value

    def to_unit(self, value: float | int | str) -> float:
        """Place on the unit interval."""
        if self.scale == "choice":
            return (self.choices.index(str(value)) + 0.5) / len(self.choices)
        low, high = self._curve(self.low), self._curve(self.high)
        return (self._curve(float(value)) - low) / (high - low)

    def from_unit(self, u: float) -> float | int | str:
        """The value at a place."""
        u = min(1.0, max(0.0, u))
        if self.scale == "choice":
            return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]
        low, high = self._curve(self.low), self._curve(self.high)
        x = low + u * (high - low)
        if self.scale == "log":
            return math.exp(x)
        if self.scale == "logit":
            return 1.0 / (1.0 + math.exp(-x))
        if self.scale == "integer":
            return round(math.exp(x) if self.low > 0 else x)
        return x


@frozen(kw_only=True)
class Space:
    """All settings of a run."""

    settings: tuple[Setting, ...] = field(converter=tuple)

    def __attrs_post_init__(self) -> None:
        names = [s.name for s in self.settings]
        if not names:
            raise InvalidInput("A search space needs at least one setting.")
        if len(set(names)) < len(names):
            raise InvalidInput(f"A setting is named twice among {', '.join(names)}.")

    def __len__(self) -> int:
        return len(self.settings)

    def config(self, u: Array) -> Config:
        """Settings at a point of the unit cube."""
        return {s.name: s.from_unit(float(x)) for s, x in zip(self.settings, u)}

    def unit(self, config: Mapping[str, Any]) -> Array:
        """The point of a configuration."""
        return np.array([s.to_unit(config[s.name]) for s in self.settings])

    @property
    def start(self) -> Array:
        """Where a local search begins."""
        return np.array([
            0.5 if s.start is None else s.to_unit(s.start) for s in self.settings
        ])  # fmt: skip

    def fingerprint(self, config: Mapping[str, Any]) -> str:
        """Equal for configurations that are functionally the same.

        Whole numbers and choices as such, others to six digits, settings that do not act left out.
        """
        parts = []
        for s in self.settings:
            if s.active_if is not None and config.get(s.active_if[0]) != s.active_if[1]:
                continue
            value = config[s.name]
            parts.append(f"{s.name}={value:.6g}" if isinstance(value, float) else
                         f"{s.name}={value}")  # fmt: skip
        return ";".join(parts)


def read_space(path: Path) -> Space:
    """A TOML file with one table per setting: scale, low, high, start, choices, active_if.

    Raises
    ------
    InvalidInput
        If it cannot be read or a table is not a setting.
    """
    import tomllib

    try:
        text = tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidInput(f"'{path}' cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"'{path}' is not TOML: {error}.") from None
    settings = []
    for name, table in text.items():
        if not isinstance(table, dict):
            raise InvalidInput(f"'{name}' in {path} is no table: write [{name}] and its scale.")
        unknown = set(table) - {"scale", "low", "high", "start", "choices", "active_if"}
        if unknown or "scale" not in table:
            raise InvalidInput(
                f"The setting '{name}' has scale, low, high, start, choices and active_if"
                + (f", not {', '.join(sorted(unknown))}." if unknown else "; it lacks its scale.")
            )
        if table["scale"] not in ("linear", "log", "logit", "integer", "choice"):
            raise InvalidInput(
                f"'{name}' has the scale '{table['scale']}'; choose linear, log, logit, integer or "
                "choice."
            )
        if "choices" in table:
            table["choices"] = tuple(str(c) for c in table["choices"])
        if "active_if" in table:
            table["active_if"] = tuple(table["active_if"])
        settings.append(Setting(name=name, **table))
    return Space(settings=tuple(settings))
