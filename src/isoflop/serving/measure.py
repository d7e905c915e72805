"""Calibrating a server on a run of its own: four numbers from half of the requests.

What a device and engine do beyond their family's parameters is summed up in a factor on decoding
kernels, a factor on prompt kernels, seconds per step and seconds per running sequence. They are
fitted to the end-to-end latency of every other request of a measured run, by simulating the whole
run; the remaining requests check them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve, frozen

from ..cost.engines import Engine
from ..cost.features import Array
from ..cost.step import StepModel
from ..errors import FitError, MissingExtra
from ..provenance import Source
from .server import Server
from .simulate import simulate
from .steptimes import StepTimes
from .traffic import Trace, read_lines
from .traffic.readers.log import Log

FEWEST = 20
"""Requests below which half of them determine nothing."""
EVALUATIONS = 160
UNIT_S = 1e-3
"""Scale of the fixed times in the search."""
LEAST_SIGMA = 0.03
"""Spread of a measured setup's steps that half a run cannot narrow: other traffic, other days."""


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
    engine : Engine
        The engine with the four numbers in it, to answer other questions about this setup.
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
    engine: Engine

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
        If it is no such log, a request lacks a time, or does not end after it was queued.
    """
    return Log.latencies(read_lines(path), str(path))


def engine_with(step: StepModel, decode: float, prompt: float, each_step: float,
                sequence: float) -> Engine:  # fmt: skip
    """The step's engine under the four numbers."""
    engine, family = step.engine, step.device.family
    return evolve(
        engine, kernel_scale={**engine.kernel_scale, family: engine.scale(family) * decode},
        prefill_scale=engine.prefill_scale * prompt / decode, step_s=engine.step_s + each_step,
        sequence_s=engine.sequence_s + sequence,
    )  # fmt: skip


def retimed(times: StepTimes, engine: Engine) -> StepTimes:
    """The tables of `times` under another engine's factors and fixed times, without tabulating.

    Equal to building them again where both engines save the same share of fixed times and nothing
    is drafted: tables are linear in an engine's factors.
    """
    t, step = times.tables, times.step
    family, layers = step.device.family, step.model.depth
    b = np.arange(len(t.decode), dtype=float)
    before, after = (e.overhead_s(b, layers) for e in (step.engine, engine))
    decode = engine.scale(family) / step.engine.scale(family)
    prompt = decode * engine.prefill_scale / step.engine.prefill_scale
    steps = decode * (t.decode - before) + after
    steps[0] = 0.0
    numbers = t.numbers.copy()
    numbers[0] *= prompt
    return evolve(times, step=evolve(step, engine=engine), tables=t._replace(
        decode=steps, attention=decode * t.attention, mixed=prompt * t.mixed,
        aside=decode * t.aside, head=decode * (t.head - before) + after,
        prompt=prompt * t.prompt, numbers=numbers,
    ))  # fmt: skip


def calibrate(server: Server, trace: Trace, measured_s: Array, name: str = "") -> Calibration:
    """Fit the four numbers to the run called `name`.

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
    base, copied = server.times, evolve(server)
    fitted = np.arange(len(trace)) % 2 == 0

    def errors(z: Array) -> Array:
        copied.__dict__["times"] = retimed(base, engine_with(server.step, *_numbers(z)))
        predicted = simulate(copied, trace).collected.e2e_s
        return np.log(predicted / measured_s)

    start = np.zeros(4)
    before = _mean_error(errors(start)[~fitted])
    simplex = np.vstack([start, start + np.diag([-0.08, 0.08, 1.0, 0.2])])
    found = minimize(
        lambda z: float(np.abs(errors(z)[fitted]).mean()), start, method="Nelder-Mead",
        options={"maxfev": EVALUATIONS, "initial_simplex": simplex, "fatol": 1e-5, "xatol": 1e-4},
    )  # fmt: skip
    left = errors(found.x)[~fitted]
    constant = np.median(measured_s[fitted])
    numbers = _numbers(found.x)
    spread = max(LEAST_SIGMA, float(np.sqrt(np.mean(left**2))))
    step_model, base_engine = server.step, server.step.engine
    engine = evolve(
        engine_with(step_model, *numbers), measured_on=step_model.setup, measured_sigma=spread,
        note=f"four numbers from half of a run of {len(trace)} requests on {step_model.setup}",
        sources={**base_engine.sources, "run": Source(title=name or "a measured run")},
    )  # fmt: skip
    decode, prompt, step, each = numbers
    return Calibration(
        decode=decode, prompt=prompt, step_s=step, sequence_s=each, before=before,
        after=_mean_error(left), engine=engine,
        baseline=float(np.mean(np.abs(constant / measured_s[~fitted] - 1.0))),
        fitted=int(fitted.sum()), checked=int((~fitted).sum()),
    )  # fmt: skip


def _mean_error(logs: Array) -> float:
    return float(np.mean(np.expm1(np.abs(logs))))


def _numbers(z: Array) -> tuple[float, float, float, float]:
    """Search coordinates as the four numbers; fixed times are squares, so never negative."""
    return (float(np.exp(z[0])), float(np.exp(z[1])), float(z[2] ** 2) * UNIT_S,
            float(z[3] ** 2) * UNIT_S)  # fmt: skip
