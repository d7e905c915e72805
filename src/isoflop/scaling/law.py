"""What a scaling law is: named parameters with bounds, a prediction and its analytic gradient.

One law form per file in `isoflop/scaling/laws/`, each defining `LAW`, an instance of one final
class. Prediction and gradient broadcast over a leading axis of parameter vectors, so thousands of
bootstrap resamples are one call. Published constants are not here: `data/laws/*.toml` holds them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from .. import registry
from ..errors import InvalidInput

Array = NDArray[Any]
Data = Mapping[str, Array]
"""Columns by input name, each of shape (runs,)."""

STEP = 1e-30
"""Relative complex step: as small as one likes, nothing is subtracted."""

PACKAGE = "isoflop.scaling.laws"

DELTA = 1e-3
"""Huber threshold on log loss, Hoffmann et al. 2022, section 3.3."""


@frozen(kw_only=True)
class Parameter:
    """One fitted constant of a law.

    Attributes
    ----------
    name : str
        The law's symbol, as a catalog entry and a result spell it (`alpha`, `A`, `E`).
    low, high : float
        Where the constant may lie.
    log : bool
        Positive and fitted as its natural logarithm.
    meaning : str
        What it is, with its unit.
    """

    name: str
    low: float
    high: float
    log: bool = False
    meaning: str = ""


@frozen(kw_only=True)
class Allocation:
    """Where a law says a budget should go.

    Attributes
    ----------
    inputs : dict
        The optimal inputs (`params`, `tokens`, ...).
    prediction : float
        The law's output there (its own unit, e.g. nats per token).
    """

    inputs: dict[str, float] = field(factory=dict)
    prediction: float


class Law(ABC):
    """A law form.

    Class attributes
    ----------------
    name : str
        Its registry name, e.g. `chinchilla`.
    title : str
        One line for people.
    reference : str
        Paper, arXiv number and equation.
    inputs : tuple of str
        Columns it needs. Standard names: `params` (N), `active_params`, `tokens` (D),
        `unique_tokens`, `compute_flop` (C), `experts`, `granularity`, `sparsity`, `bits_weight`,
        `bits_activation`, `bits_kv`, `vocab`, `batch_tokens`, `lr`, `date_year`, `samples` (k),
        `streams` (P). A law may add its own, documented in its file.
    output : str
        What it predicts: `loss` unless said.
    parameters : tuple of Parameter
        In the order of every parameter vector.
    signed : tuple of str
        Columns, the output among them, that may be zero or negative; the others are positive.
    log_residual : bool
        Whether a fit compares logarithms of the output, the default, or the output itself: shares
        and outputs that are logarithms already are compared as they are.
    delta : float
        Huber threshold of a fit, in the unit of its residuals.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    output: ClassVar[str] = "loss"
    parameters: ClassVar[tuple[Parameter, ...]]
    signed: ClassVar[tuple[str, ...]] = ()
    log_residual: ClassVar[bool] = True
    delta: ClassVar[float] = DELTA

    @abstractmethod
    def predict(self, theta: Array, x: Data) -> Array:
        """Output for parameters `theta` of shape (..., p) at runs `x`: shape (..., runs)."""

    def gradient(self, theta: Array, x: Data) -> Array:
        """Derivative of `predict` by each natural parameter: shape (..., runs, p).

        By complex steps, Im f(theta + ih) / h, which have no cancellation and so are exact to
        rounding for the analytic functions that laws are (Squire and Trapp 1998, SIAM Review).
        """
        theta = np.asarray(theta, float)
        columns = []
        for i in range(theta.shape[-1]):
            shifted = theta.astype(complex)
            step = STEP * np.maximum(np.abs(theta[..., i]), 1e-200)
            shifted[..., i] += 1j * step
            columns.append(np.imag(self.predict(shifted, x)) / step[..., None])
        return np.stack(columns, axis=-1)

    def starts(self, x: Data, y: Array) -> Array:
        """Starting points for a fit, shape (starts, p); default: a grid over the bounds."""
        rng = np.random.default_rng(0)
        u = rng.random((64, len(self.parameters)))
        low = np.array([np.log(p.low) if p.log else p.low for p in self.parameters])
        high = np.array([np.log(p.high) if p.log else p.high for p in self.parameters])
        z = low + u * (high - low)
        return np.where([p.log for p in self.parameters], np.exp(z), z)

    def optimum(self, theta: Array, budget_flop: float, **given: float) -> Allocation:
        """The best inputs for a training budget; laws that know none raise `InvalidInput`."""
        raise InvalidInput(
            f"The law '{self.name}' says nothing about how to spend a training budget. "
            f"It predicts {self.output} from {', '.join(self.inputs)}."
        )

    def vector(self, constants: Mapping[str, float]) -> Array:
        """Constants by name as a parameter vector.

        Raises
        ------
        InvalidInput
            If one is missing or unknown.
        """
        names = [p.name for p in self.parameters]
        missing = [n for n in names if n not in constants]
        unknown = [n for n in constants if n not in names]
        if missing or unknown:
            raise InvalidInput(
                f"The law '{self.name}' has the constants {', '.join(names)}; "
                + (f"missing: {', '.join(missing)}. " if missing else "")
                + (f"unknown: {', '.join(unknown)}." if unknown else "")
            )
        return np.array([float(constants[n]) for n in names])

    def constants(self, theta: Array) -> dict[str, float]:
        """A parameter vector as constants by name."""
        return {p.name: float(v) for p, v in zip(self.parameters, theta)}


def find_law(name: str) -> Law:
    """The law form called `name`; `UnknownName` with suggestions otherwise."""
    return registry.find(PACKAGE, name, "LAW", "law")


def law_names() -> tuple[str, ...]:
    """Names of every law form."""
    return registry.names(PACKAGE)
