"""NUPES: the codes of every weight and the power exponent learned together by gradient descent.

Starts from the exponent search of `powerquant`. Each weight has a real number in code space that
descends the layer's output error under a growing pull toward whole codes, so it may travel over the
whole range, not only to a neighbour; the exponent takes damped Gauss-Newton steps beside it. Three
things keep this stable: the slope by the code is a central difference over one code, since the
derivative |q|^(1/a - 1) vanishes or diverges at 0; x ln x is 0 at 0 in the slope by the exponent;
and each weight's slope is divided by its curvature, so that all settle together. The best rounded
iterate is kept, so the calibrated error is never above the search's.

References
----------
Yvinec et al., NUPES, arXiv 2308.05600: learning the quantised weights over the entire range, and
the exponent with them. The means of doing so stably (above) are choices made here.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ...errors import InvalidInput
from ._base import Calibration, Quantized, check_weight, no_data_note, weighted_error
from .powerquant import HIGH, LOW, PowerQuant

CODE_RATE = 0.01
"""Codes per step."""

ATTRACTION = 0.3
"""Weight of the pull toward whole codes at the end, against the weight's own curvature."""

WARM_UP = 0.1
"""Share of the steps before that pull starts."""

EXPONENT_RATE = 0.1
"""Share of a Gauss-Newton step taken."""

ADAM_1, ADAM_2, ADAM_EPS = 0.9, 0.999, 1e-12


def _decoded(q: np.ndarray, top: int, exponent: float) -> np.ndarray:
    """sign(q) (|q| / top)^(1/a), also between codes."""
    return np.sign(q) * (np.abs(q) / top) ** (1 / exponent)


def _slope(q: np.ndarray, top: int, exponent: float) -> np.ndarray:
    return _decoded(q + 0.5, top, exponent) - _decoded(q - 0.5, top, exponent)


def _exponent_slope(values: np.ndarray, q: np.ndarray, top: int, exponent: float) -> np.ndarray:
    """Derivative of the decoded values by the exponent; 0 at code 0, as x ln x is."""
    ratio = np.where(q == 0, 1.0, np.abs(q) / top)
    return -values * np.log(ratio) / exponent**2


class _Adam:
    def __init__(self, shape: tuple[int, ...]):
        self.first, self.second, self.steps = np.zeros(shape), np.zeros(shape), 0

    def step(self, slope: np.ndarray) -> np.ndarray:
        self.steps += 1
        self.first = ADAM_1 * self.first + (1 - ADAM_1) * slope
        self.second = ADAM_2 * self.second + (1 - ADAM_2) * slope**2
        mean = self.first / (1 - ADAM_1**self.steps)
        return mean / (np.sqrt(self.second / (1 - ADAM_2**self.steps)) + ADAM_EPS)


@frozen(kw_only=True)
class Nupes:
    """Joint descent on tr(E H E^T). The format gives only the number of bits.

    Attributes
    ----------
    steps : int
        Descent steps, at least 1.
    learn_exponent : bool
        False learns the codes alone, at the searched exponent.
    """

    uses_calibration: bool = True
    steps: int = 400
    learn_exponent: bool = True

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`. Facts: the exponent, the searched one, and the share of codes moved."""
        if self.steps < 1:
            raise InvalidInput(f"{self.steps} steps of nupes; at least 1 is needed.")
        weight = check_weight(weight)
        found = PowerQuant().quantize(weight, fmt, calibration)
        searched = float(found.facts["exponent"])
        scale = np.abs(weight).max(1, keepdims=True).astype(np.float64)
        safe = np.where(scale > 0, scale, 1)
        top = (1 << (fmt.bits - 1)) - 1
        start = np.sign(weight) * top * (np.abs(weight) / safe) ** searched
        q, exponent = self._descend(weight, scale, start, top, searched, calibration.hessian)
        moved = float(np.mean(q != np.rint(start)))
        return Quantized(
            values=(_decoded(q, top, exponent) * scale).astype(np.float32),
            storage_bytes=found.storage_bytes,
            facts={"exponent": exponent, "searched": searched, "moved": moved},
            notes=no_data_note(calibration, "nupes"),
        )

    def _descend(self, weight, scale, start, top: int, exponent: float, hessian):
        """The best rounded codes and exponent met, from real codes `start` and `exponent`."""
        soft, codes = start, _Adam(start.shape)
        step_size = _slope(soft, top, exponent) * scale
        curvature = np.diag(hessian) * step_size**2
        curvature = np.maximum(curvature, 1e-12 * max(float(curvature.max()), 1e-300))
        best, best_loss = (np.rint(soft), exponent), np.inf
        for step in range(self.steps + 1):
            error = _decoded(np.rint(soft), top, exponent) * scale - weight
            loss = weighted_error(error, hessian)
            if loss < best_loss:
                best, best_loss = (np.rint(soft), exponent), loss
            values = _decoded(soft, top, exponent)
            pull = (values * scale - weight) @ hessian
            if self.learn_exponent:
                slope = _exponent_slope(values, soft, top, exponent) * scale
                bend = weighted_error(slope, hessian) or 1.0
                change = EXPONENT_RATE * float(np.sum(slope * pull)) / bend
                exponent = float(np.clip(exponent - change, LOW, HIGH))
            by_code = 2 * pull * scale * _slope(soft, top, exponent) / curvature
            progress = (step / self.steps - WARM_UP) / (1 - WARM_UP)
            attraction = ATTRACTION * max(0.0, progress) * np.pi * np.sin(2 * np.pi * soft)
            soft = np.clip(soft - CODE_RATE * codes.step(by_code + attraction), -top, top)
        return best


QUANTIZER = Nupes
