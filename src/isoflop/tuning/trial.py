"""Trials of a search: run once per function, logged as they end, resumed from the log."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from ..cost.features import Array
from ..errors import InvalidInput
from .space import Config, Space

Objective = Callable[[Config], Mapping[str, float]]
"""A run: returns `loss`, optionally `cost` (any positive unit) and constraints by name (kept where
at most 0). A run that raises or gives NaN has failed and is logged so."""


@frozen(kw_only=True)
class Trial:
    """One evaluated configuration."""

    config: Config
    point: Array = field(eq=False)
    loss: float
    cost: float
    constraints: dict[str, float] = field(factory=dict)
    repeated: bool = False

    @property
    def failed(self) -> bool:
        """Whether the run gave no loss."""
        return not math.isfinite(self.loss)

    @property
    def allowed(self) -> bool:
        """Whether it keeps every constraint."""
        return not self.failed and all(v <= 0 for v in self.constraints.values())


@define(kw_only=True)
class History:
    """What has been tried."""

    space: Space
    trials: list[Trial] = field(factory=list)
    known: dict[str, Trial] = field(factory=dict)
    log: Path | None = None

    def evaluate(self, objective: Objective, config: Config) -> Trial:
        """Run a configuration, unless one with the same function ran before."""
        key = self.space.fingerprint(config)
        before = self.known.get(key)
        if before is not None:
            trial = Trial(config=config, point=self.space.unit(config), loss=before.loss,
                          cost=before.cost, constraints=before.constraints,
                          repeated=True)  # fmt: skip
            self.trials.append(trial)
            return trial
        began = time.perf_counter()
        try:
            seen = dict(objective(config))
        except InvalidInput:
            raise
        except Exception:
            seen = {"loss": math.nan}
        spent = time.perf_counter() - began
        if "loss" not in seen:
            raise InvalidInput(
                f"A run gave {', '.join(seen) or 'nothing'} but no loss: its result needs 'loss'."
            )
        return self._add(config, seen, spent)

    def _add(self, config: Config, seen: Mapping[str, float], spent: float) -> Trial:
        cost = float(seen.get("cost", spent))
        if not (math.isfinite(cost) and cost > 0):
            raise InvalidInput(f"A run reports a cost of {cost}; costs are positive numbers.")
        trial = Trial(
            config=config, point=self.space.unit(config), loss=float(seen["loss"]), cost=cost,
            constraints={k: float(v) for k, v in seen.items() if k not in ("loss", "cost")},
        )  # fmt: skip
        self.trials.append(trial)
        self.known[self.space.fingerprint(config)] = trial
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(json.dumps({"config": config, "loss": trial.loss, "cost": cost,
                                       "constraints": trial.constraints}) + "\n")  # fmt: skip
        return trial

    def resume(self) -> int:
        """Read the log of an interrupted search; the number of its trials.

        A half-written last line is dropped.
        """
        if self.log is None or not self.log.exists():
            return 0
        lines = self.log.read_text().splitlines()
        for i, line in enumerate(lines):
            try:
                row = json.loads(line)
                config = {s.name: row["config"][s.name] for s in self.space.settings}
            except (json.JSONDecodeError, KeyError, TypeError):
                if i == len(lines) - 1:
                    self.log.write_text("".join(x + "\n" for x in lines[:-1]))
                    break
                raise InvalidInput(
                    f"Line {i + 1} of {self.log} is not a trial of this space. Use another log."
                ) from None
            trial = Trial(config=config, point=self.space.unit(config), loss=row["loss"],
                          cost=row["cost"], constraints=row["constraints"])  # fmt: skip
            self.trials.append(trial)
            self.known[self.space.fingerprint(config)] = trial
        return len(self.trials)

    def best(self) -> Trial | None:
        """The lowest allowed loss."""
        kept = [t for t in self.trials if t.allowed]
        return min(kept, key=lambda t: t.loss) if kept else None

    def front(self) -> list[Trial]:
        """Allowed trials that no other beats on both cost and loss, cheapest first."""
        out: list[Trial] = []
        for t in sorted((t for t in self.trials if t.allowed), key=lambda t: (t.cost, t.loss)):
            if not out or t.loss < out[-1].loss:
                out.append(t)
        return out


def command_objective(template: str, timeout_s: float | None = None) -> Objective:
    """A run by shell command, such as `python train.py --lr {lr}`.

    The last line of its output is JSON with `loss` and, if it likes, `cost` and constraints.
    """

    def run(config: Config) -> dict[str, Any]:
        try:
            command = template.format(**config)
        except (KeyError, IndexError) as error:
            raise InvalidInput(
                f"The command uses {{{error.args[0]}}}, which is no setting of the space."
            ) from None
        done = subprocess.run(command, shell=True, capture_output=True, text=True,
                              timeout=timeout_s)  # fmt: skip
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            raise RuntimeError(done.stderr[-500:])
        return dict(json.loads(lines[-1]))

    return run
