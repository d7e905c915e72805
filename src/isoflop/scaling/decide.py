"""Decisions from a law: where a budget goes, how sure that is, and which run to do next."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from ..errors import InvalidInput, IsoflopError, UnknownName
from ..units import parse, show_count
from .fit import central_interval
from .law import Allocation, Law, find_law, law_names

if TYPE_CHECKING:
    from .published import PublishedLaw

Array = NDArray[Any]

REFERENCE = "besiroglu-2024"
"""The general-purpose law where none is named."""
FAR = 10.0
"""How far outside the runs an answer is given without being asked to: a factor in each input."""
MFU = (0.3, 0.4, 0.5)
"""Low, assumed and high model FLOP utilisation where a budget is hardware time: the range of
published large dense runs (Llama 3: 38-43%; Megatron 2021: 44-52%; PaLM: 46%)."""


@frozen(kw_only=True, eq=False)
class Believed:
    """A law with constants, and as many alternatives as its source gives.

    Attributes
    ----------
    theta : array (p,)
    draws : array (resamples, p)
    valid : dict of str to (low, high)
        Range of the runs it was fitted on, where known.
    """

    name: str
    law: Law
    theta: Array
    draws: Array
    valid: dict[str, tuple[float, float]] = field(factory=dict)
    source: str = ""


def load_law(name: str) -> Believed:
    """A fit's JSON file, or a published law by its catalog id; a form's name where one fits it.

    Raises
    ------
    InvalidInput, UnknownName
        If the file is no fit, no published law has that name, or the form of that name has
        several published fits.
    """
    path = Path(name)
    if path.suffix == ".json" or path.is_file():
        return _read_fit(path)
    entry = _published(name)
    law = find_law(entry.law)
    theta = law.vector(entry.constants)
    return Believed(
        name=entry.id, law=law, theta=theta, draws=entry.draws(law), valid=entry.ranges(),
        source=entry.citation(),
    )  # fmt: skip


def _published(name: str) -> PublishedLaw:
    from .published import load_published, published_names

    try:
        return load_published(name)
    except UnknownName:
        fits = [n for n in published_names() if load_published(n).law == name.strip().lower()]
        if len(fits) == 1:
            return load_published(fits[0])
        if fits:
            raise InvalidInput(
                f"'{name}' is a form with several published fits: {', '.join(sorted(fits))}. "
                "Name one of them."
            ) from None
        if name.strip().lower() in law_names():
            raise InvalidInput(
                f"'{name}' is a form without published constants. Fit it to runs of your own: "
                f"isoflop fit runs.csv --law {name} --out fit.json, then --law fit.json."
            ) from None
        raise


def _read_fit(path: Path) -> Believed:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        law = find_law(found["law"])
        theta = law.vector(found["params"])
        draws = np.array(found.get("draws", []), float).reshape(-1, len(theta))
        valid = {k: (float(v[0]), float(v[1])) for k, v in found.get("valid", {}).items()}
    except OSError as error:
        raise InvalidInput(f"The fit '{path}' cannot be read: {error.strerror}.") from None
    except IsoflopError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise InvalidInput(
            f"'{path}' is not a fit. Write one with `isoflop fit runs.csv --out {path}`."
        ) from None
    return Believed(name=path.stem, law=law, theta=theta, draws=draws, valid=valid,
                    source=f"fit of {found.get('runs', '?')} runs")  # fmt: skip


@frozen(kw_only=True, eq=False)
class Spending:
    """Where a budget should go.

    Attributes
    ----------
    best : Allocation
    intervals : dict of str to (low, high)
        95% intervals of every optimal input and of the prediction.
    regret : float
        Mean over the law's alternatives of the prediction lost by following `best` where the
        alternative is true.
    outside : tuple of str
        Inputs beyond the range of the runs the law was fitted on, in words.
    """

    believed: Believed
    budget_flop: float
    best: Allocation
    intervals: dict[str, tuple[float, float]]
    regret: float | None
    outside: tuple[str, ...]
    extra: dict[str, Any] = field(factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        inputs = self.best.inputs
        interval = {k: list(v) for k, v in self.intervals.items()}
        return {
            "law": self.believed.name, "form": self.believed.law.name,
            "budget_flop": self.budget_flop, **inputs,
            self.believed.law.output: self.best.prediction, "interval95": interval,
            "tokens_per_param": inputs["tokens"] / inputs["params"]
            if {"tokens", "params"} <= inputs.keys() else None,
            "regret": self.regret, "outside": list(self.outside),
            "source": self.believed.source, **self.extra,
        }  # fmt: skip


def spend(
    believed: Believed, budget_flop: float, *, inference_tokens: float = 0.0,
    force: bool | None = True, **given: float,
) -> Spending:  # fmt: skip
    """The best use of a training budget.

    Parameters
    ----------
    inference_tokens : float
        Tokens the model will serve: the budget is then lifetime compute, 6 N D + 2 N D_inf
        (Sardana et al. 2024, arXiv 2401.00448, equation 3).
    force : bool or None
        Answer outside the range of the runs too, labelled; False refuses any such answer, None
        those more than `FAR` times outside.
    given : float
        Inputs the law's optimum takes as fixed (`unique_tokens`, ...).

    Raises
    ------
    InvalidInput
        For a budget that is no positive number, a law without an optimum, or a refused answer.
    """
    if not (np.isfinite(budget_flop) and budget_flop > 0):
        raise InvalidInput(f"A budget is a positive number of FLOP, not {budget_flop:g}.")
    _check_given(believed.law, given)

    def solve(theta: Array) -> Allocation:
        if inference_tokens:
            return lifetime_optimum(believed.law, theta, budget_flop, inference_tokens)
        return believed.law.optimum(theta, budget_flop, **given)

    best = solve(believed.theta)
    intervals: dict[str, tuple[float, float]] = {}
    regret = None
    if len(believed.draws) >= 40:
        others = [solve(t) for t in believed.draws]
        table = {k: np.array([o.inputs[k] for o in others]) for k in best.inputs}
        table[believed.law.output] = np.array([o.prediction for o in others])
        intervals = {k: central_interval(v) for k, v in table.items()}
        here = {k: np.array([v]) for k, v in {**given, **best.inputs}.items()
                if k in believed.law.inputs}  # fmt: skip
        if set(here) == set(believed.law.inputs):
            followed = believed.law.predict(believed.draws, here)[:, 0]
            regret = float(np.nanmean(followed - table[believed.law.output]))
    found = _outside(believed, {**given, **best.inputs, "compute_flop": budget_flop})
    outside = tuple(text for _, text in found)
    limit = 1.0 if force is False else np.inf if force else FAR
    if any(factor > limit for factor, _ in found):
        raise InvalidInput(
            f"The answer leaves what the law '{believed.name}' was fitted on"
            + (f" by more than {FAR:g} times" if force is None else "")
            + f": {'; '.join(outside)}. Fit on larger runs, or ask with --force and treat it as an "
            "extrapolation."
        )
    return Spending(believed=believed, budget_flop=budget_flop, best=best, intervals=intervals,
                    regret=regret, outside=outside)  # fmt: skip


def _check_given(law: Law, given: dict[str, float]) -> None:
    open_inputs = [n for n in law.inputs if n not in ("params", "tokens", "compute_flop")]
    for name, value in given.items():
        if name not in open_inputs:
            takes = f"it takes {', '.join(open_inputs)}" if open_inputs else "it takes none"
            hint = ""
            if name == "unique_tokens":
                hint = " Repeated data has its own: --law muennighoff-2023."
            raise InvalidInput(
                f"The law '{law.name}' has no input '{name}' beside the budget; {takes}.{hint}"
            )
        if not np.isfinite(value) or (value <= 0 and name not in law.signed):
            raise InvalidInput(f"{name} is a positive number, not {value:g}.")


def _outside(believed: Believed, at: dict[str, float]) -> list[tuple[float, str]]:
    """By how much each input leaves the range of the runs, and in words."""
    out = []
    for name, value in at.items():
        low, high = believed.valid.get(name, (0.0, np.inf))
        if value > high * (1 + 1e-9):
            over = value / high
            out.append(
                (over, f"{name} {_shown(name, value)} is {over:.3g} times the largest run's")
            )
        elif value < low * (1 - 1e-9):
            under = low / value
            text = f"{name} {_shown(name, value)} is {under:.3g} times below the smallest run's"
            out.append((under, text))
    return out


def _shown(name: str, value: float) -> str:
    """A count as 28.3B; FLOP, and what is no count, as it is usual there."""
    counts = name.endswith(("params", "tokens")) and value >= 1e3
    return show_count(value) if counts else f"{value:.3g}"


def lifetime_optimum(law: Law, theta: Array, budget_flop: float, served: float) -> Allocation:
    """Best loss for 6 N D + 2 N served = budget, by golden section over log N.

    The loss along the budget line has one minimum: it falls while the model is too small and
    rises once too few tokens are left.
    """
    if set(law.inputs) != {"params", "tokens"}:
        raise InvalidInput(
            f"Serving demand is joined with laws of parameters and tokens; '{law.name}' takes "
            f"{', '.join(law.inputs)}."
        )

    def loss(log_n: float) -> float:
        n = np.exp(log_n)
        tokens = (budget_flop - 2.0 * n * served) / (6.0 * n)
        if tokens <= 0:
            return np.inf
        return float(law.predict(theta, {"params": np.array([n]), "tokens": np.array([tokens])})[0])

    high = float(np.log(budget_flop / (2.0 * served)))
    log_n = golden(loss, np.log(1e4), high)
    n = float(np.exp(log_n))
    tokens = (budget_flop - 2.0 * n * served) / (6.0 * n)
    return Allocation(inputs={"params": n, "tokens": tokens}, prediction=loss(log_n))


def golden(function: Any, low: float, high: float, steps: int = 120) -> float:
    """Minimum of a function with one minimum between `low` and `high`."""
    ratio = (np.sqrt(5.0) - 1.0) / 2.0
    a, b = low, high
    c, d = b - ratio * (b - a), a + ratio * (b - a)
    fc, fd = function(c), function(d)
    for _ in range(steps):
        if fc < fd or not np.isfinite(fd):
            b, d, fd = d, c, fc
            c = b - ratio * (b - a)
            fc = function(c)
        else:
            a, c, fc = c, d, fd
            d = a + ratio * (b - a)
            fd = function(d)
        if b - a < 1e-12 * max(1.0, abs(a)):
            break
    return float((a + b) / 2.0)


def cheapest_for_quality(
    law: Law, theta: Array, loss: float, served: float
) -> tuple[Allocation, float]:
    """Least lifetime compute 6 N D + 2 N served that reaches `loss`, and that compute.

    Sardana et al. 2024, equation 2: train a smaller model for longer when it will serve much.

    Raises
    ------
    InvalidInput
        If no amount of tokens reaches the loss.
    """

    def tokens_for(log_n: float) -> float:
        n = np.array([np.exp(log_n)])
        low, high = 0.0, 60.0
        at = law.predict(theta, {"params": n, "tokens": np.array([np.exp(high)])})[0]
        if at > loss:
            return np.inf
        for _ in range(100):
            middle = (low + high) / 2.0
            got = law.predict(theta, {"params": n, "tokens": np.array([np.exp(middle)])})[0]
            low, high = (middle, high) if got > loss else (low, middle)
        return float(np.exp(high))

    def cost(log_n: float) -> float:
        tokens = tokens_for(log_n)
        return np.exp(log_n) * (6.0 * tokens + 2.0 * served)

    grid = np.linspace(np.log(1e5), np.log(1e15), 400)
    costs = np.array([cost(g) for g in grid])
    if not np.isfinite(costs).any():
        raise InvalidInput(f"No size and amount of data reach a loss of {loss:g} under this law.")
    i = int(np.argmin(costs))
    log_n = golden(cost, grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)])
    n, tokens = float(np.exp(log_n)), tokens_for(log_n)
    return Allocation(inputs={"params": n, "tokens": tokens}, prediction=loss), cost(log_n)


@frozen(kw_only=True)
class Budget:
    """A budget in FLOP, with an interval where it was given as hardware."""

    flop: float
    low_flop: float
    high_flop: float
    text: str
    note: str = ""


def parse_budget(
    text: str,
    on: str = "",
    mfu: float = 0.0,
    reached: tuple[float, float, float] | None = None,
    how: str = "",
) -> Budget:
    """FLOP (`1e24`), or GPU-hours, dollars or days of a named fleet.

    `5000 gpu-hours`, `2e6 usd` or `$2M`, `30 days` need `on`, and use its dense bf16 rate at the
    model FLOP utilisation `mfu`; without one at `reached` (low, middle, high), which `how`
    explains, or at the range of published large runs.

    Raises
    ------
    InvalidInput
        If it does not parse or needs a fleet.
    """
    wanted = text.strip().lower().replace(",", "")
    match = re.fullmatch(r"(\$?)\s*([0-9.]+(?:e[+-]?\d+)?)\s*([kmb]?)\s*([a-z/ -]*)", wanted)
    if not match:
        raise InvalidInput(
            f"'{text}' is not a budget. Write FLOP (1e24), or hardware with --on: "
            "'5000 gpu-hours', '30 days', '$2M'."
        )
    number = float(match.group(2)) * {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}[match.group(3)]
    unit = match.group(4).strip() or ("usd" if match.group(1) else "flop")
    if match.group(1):
        unit = "usd"
    if not (np.isfinite(number) and number > 0):
        raise InvalidInput(f"A budget is above zero, not {text}.")
    if unit in ("flop", "flops"):
        return Budget(flop=number, low_flop=number, high_flop=number, text=f"{number:.3g} FLOP")
    kind = next((k for k, names in _UNITS.items() if unit in names), None)
    if kind is None:
        raise InvalidInput(
            f"'{unit}' is no unit of a budget. Use FLOP, gpu-hours, days, hours or usd."
        )
    return _hardware_budget(number, kind, text, on, mfu, reached, how)


_UNITS = {
    "gpu-hours": ("gpu-hours", "gpu hours", "gpu-hour", "gpuh", "gpu-h"),
    "days": ("days", "day", "d"),
    "hours": ("hours", "hour", "h"),
    "usd": ("usd", "dollars", "dollar"),
}


def _hardware_budget(
    number: float,
    kind: str,
    text: str,
    on: str,
    mfu: float,
    reached: tuple[float, float, float] | None,
    how: str,
) -> Budget:
    from ..formats import load_format
    from ..hardware import load_fleet

    if not on:
        raise InvalidInput(f"A budget of {text} needs the fleet it is spent on: --on 64xh100-sxm.")
    device, count, _ = load_fleet(on)
    if kind == "gpu-hours":
        hours = number
    elif kind == "usd":
        if device.price is None:
            raise InvalidInput(
                f"The catalog has no public price of {device.name}: give GPU-hours, or the price "
                f"in USD per device-hour, as in --on {count}x{device.id}@3.20."
            )
        hours = number / device.price.on_demand_usd_per_hour
    else:
        hours = number * count * (24.0 if kind == "days" else 1.0)
    if mfu and not 0 < mfu <= 1:
        raise InvalidInput(f"Model FLOP utilisation lies in (0, 1], not {mfu}.")
    peak = device.matrix_rate(load_format("bf16"))[0]
    low, middle, high = (mfu, mfu, mfu) if mfu else reached or MFU
    reason = f" (90% between {low:.0%} and {high:.0%}; {how})" if reached else (
        f" (assumed; {low:.0%} to {high:.0%} is usual)")  # fmt: skip
    flop = hours * 3600.0 * peak
    note = (f"{hours:,.0f} {device.name} hours at {middle:.0%} of {peak / 1e12:,.0f} TFLOP/s"
            + ("" if mfu else reason))  # fmt: skip
    return Budget(flop=flop * middle, low_flop=flop * low, high_flop=flop * high, text=text,
                  note=note)  # fmt: skip


def parse_tokens(text: str, what: str) -> float:
    """Tokens such as `2T`; zero for an empty text."""
    return parse(text, "tokens", what) if text else 0.0
