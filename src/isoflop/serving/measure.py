"""Calibrating a server on a run of its own: four numbers from half of the requests.

What a device and engine do beyond their family's parameters is summed up in a factor on decoding
kernels, a factor on prompt kernels, seconds per step and seconds per running sequence. They are
fitted to the end-to-end latency of every other request of a measured run, by simulating the whole
run; the remaining requests check them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve, frozen

from ..cost.features import Array
from ..errors import FitError, InvalidInput, MissingExtra
from .server import Server
from .simulate import simulate
from .steptimes import StepTimes
from .traffic import Trace

FEWEST = 20
"""Requests below which half of them determine nothing."""
EVALUATIONS = 160
UNIT_S = 1e-3
"""Scale of the fixed times in the search."""


@frozen(kw_only=True)
class Calibration:
    """Four numbers of one server.

    Attributes
    ----------
    decode, prompt : float
        Factors on decoding and prompt kernels.
    step_s, sequence_s : float
        Added to every step, and to it per running sequence.
    before, after : float
        Mean absolute relative error of end-to-end latency on the requests that were not fitted.
    baseline : float
        The same of one constant, the median of the fitted half.
    """

    decode: float
    prompt: float
    step_s: float
    sequence_s: float
    before: float
    after: float
    baseline: float
    fitted: int
    checked: int

    def row(self) -> dict[str, Any]:
        """As a plain record."""
        return {
            "decode_factor": self.decode, "prompt_factor": self.prompt, "step_s": self.step_s,
            "sequence_s": self.sequence_s, "error_before": self.before, "error_after": self.after,
            "error_one_constant": self.baseline, "fitted": self.fitted, "checked": self.checked,
        }  # fmt: skip


def read_latencies(path: str | Path) -> Array:
    """End-to-end seconds per request of a benchmark log, in order of arrival.

    Raises
    ------
    InvalidInput
        If the log lacks `last_token_ts` with `queued_ts` or `arrival_time`.
    """
    rows = []
    for number, line in enumerate(Path(path).read_text().splitlines(), start=1):
        if not line.strip():
            continue
        row = json.loads(line)
        if "last_token_ts" not in row or "queued_ts" not in row:
            raise InvalidInput(
                f"Line {number} of '{path}' has no last_token_ts and queued_ts: a measured run "
                "needs both for every request."
            )
        rows.append((float(row["arrival_time"]), float(row["last_token_ts"] - row["queued_ts"])))
    rows.sort()
    return np.array([r[1] for r in rows])


def adjusted(times: StepTimes, decode: float, prompt: float, step: float, each: float) -> StepTimes:
    """Step times under the four numbers."""
    t = times.tables
    b = np.arange(len(t.decode))
    fixed = step + each * b
    made = decode * t.decode + fixed
    made[0] = 0.0
    return evolve(times, tables=t._replace(
        decode=made, attention=decode * t.attention, mixed=prompt * t.mixed,
        aside=decode * t.aside, head=decode * t.head + fixed, prompt=prompt * t.prompt,
    ))  # fmt: skip


def calibrate(server: Server, trace: Trace, measured_s: Array) -> tuple[Calibration, Server]:
    """Fit the four numbers; also the server with them.

    Raises
    ------
    FitError
        If there are too few requests.
    MissingExtra
        If scipy is not installed.
    """
    if len(trace) < FEWEST:
        raise FitError(
            f"The run has {len(trace)} requests; at least {FEWEST} are needed, half to fit and "
            "half to check."
        )
    try:
        from scipy.optimize import minimize
    except ImportError:
        raise MissingExtra("Calibration", "fit") from None
    base = server.times
    fitted = np.arange(len(trace)) % 2 == 0

    def errors(z: Array) -> Array:
        server.__dict__["times"] = adjusted(base, *_numbers(z))
        predicted = simulate(server, trace).collected.e2e_s
        return np.abs(np.log(predicted / measured_s))

    start = np.zeros(4)
    before = float(np.mean(np.expm1(errors(start)[~fitted])))
    simplex = np.vstack([start, start + np.diag([-0.08, 0.08, 1.0, 0.2])])
    found = minimize(
        lambda z: float(errors(z)[fitted].mean()), start, method="Nelder-Mead",
        options={"maxfev": EVALUATIONS, "initial_simplex": simplex, "fatol": 1e-5, "xatol": 1e-4},
    )  # fmt: skip
    predicted = errors(found.x)
    after = float(np.mean(np.expm1(predicted[~fitted])))
    constant = np.median(measured_s[fitted])
    decode, prompt, step, each = _numbers(found.x)
    return Calibration(
        decode=decode, prompt=prompt, step_s=step, sequence_s=each, before=before, after=after,
        baseline=float(np.mean(np.abs(constant / measured_s[~fitted] - 1.0))),
        fitted=int(fitted.sum()), checked=int((~fitted).sum()),
    ), server  # fmt: skip


def _numbers(z: Array) -> tuple[float, float, float, float]:
    """Search coordinates as the four numbers; fixed times are squares, so never negative."""
    return (float(np.exp(z[0])), float(np.exp(z[1])), float(z[2] ** 2) * UNIT_S,
            float(z[3] ** 2) * UNIT_S)  # fmt: skip
