"""What quantizers share: the protocol, calibration statistics, and formats fit for weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from attrs import field, frozen

from ...errors import InvalidInput
from ..arrays import finite_or_raise
from ..blocks import Blocks
from ..formats import BlockFormat, FixedFormat, FloatFormat, load, load_float

DAMPING = 0.01
"""Default diagonal damping of a Hessian, as a fraction of its mean diagonal."""

DAMPING_GROWTH = 10.0
MAX_DAMPING_STEPS = 6


@frozen(kw_only=True, eq=False)
class Calibration:
    """Second moments of a layer's inputs.

    Attributes
    ----------
    hessian : np.ndarray
        X^T X / rows in float64, shape (in, in); the Hessian of the layer's squared output error
        is twice that, a factor no quantizer depends on.
    amax : np.ndarray
        Largest magnitude of each input channel, shape (in,).
    rows : int
        Input rows seen; 0 for the identity.
    """

    hessian: np.ndarray
    amax: np.ndarray
    rows: int

    @classmethod
    def identity(cls, width: int) -> Calibration:
        """No data: every input channel alike and independent."""
        return cls(hessian=np.eye(width), amax=np.ones(width), rows=0)

    @classmethod
    def of(cls, inputs: np.ndarray, chunk: int = 4096) -> Calibration:
        """Accumulate in float64 over row chunks of inputs of shape (..., rows, in).

        Raises
        ------
        InvalidInput
            For NaN or infinity, or no rows.
        """
        if inputs.ndim < 2 or inputs.size == 0:
            raise InvalidInput(f"Calibration inputs have shape {inputs.shape}; rows are needed.")
        rows = inputs.reshape(-1, inputs.shape[-1])
        return cls.streamed(rows[first : first + chunk] for first in range(0, len(rows), chunk))

    @classmethod
    def streamed(cls, chunks: Iterable[np.ndarray]) -> Calibration:
        """As `of`, from an iterable of (rows, in) arrays, one of which is in memory at a time."""
        total = amax = None
        count = 0
        for chunk in chunks:
            part = np.asarray(chunk, dtype=np.float64)
            finite_or_raise(part, f"calibration, rows from {count}")
            if total is None or amax is None:
                total, amax = np.zeros((part.shape[1],) * 2), np.zeros(part.shape[1])
            total += part.T @ part
            amax = np.maximum(amax, np.abs(part).max(0))
            count += len(part)
        if total is None or amax is None:
            raise InvalidInput("There are no calibration inputs; rows are needed.")
        return cls(hessian=total / count, amax=amax, rows=count)


@frozen(kw_only=True, eq=False)
class Quantized:
    """A quantized weight matrix.

    Attributes
    ----------
    values : np.ndarray
        What the layer now multiplies by, float32, the weight's shape.
    storage_bytes : int
        To the byte: packed codes, scales, zero points, tensor scale and side tables.
    blocks : Blocks or None
        Codes and scales, where the method's result is one encoded tensor.
    facts : dict
        Method-specific numbers for the report.
    notes : tuple of str
        Sentences the user should read (damping, missing calibration, ...).
    """

    values: np.ndarray
    storage_bytes: int
    blocks: Blocks | None = None
    facts: dict[str, Any] = field(factory=dict)
    notes: tuple[str, ...] = ()


class Quantizer(Protocol):
    """Turns a weight matrix into a quantized one.

    Attributes
    ----------
    uses_calibration : bool
        Whether input statistics change the result.
    """

    uses_calibration: bool

    def quantize(self, weight: np.ndarray, fmt: Any, calibration: Calibration) -> Quantized:
        """Quantize `weight`, float32 of shape (out, in), to a format record."""
        ...


def load_weight_format(name: str) -> Any:
    """A format as weights are stored in it: small scalars get scales.

    int4 and below mean groups of 128 (intB-g128), int8 one scale per output channel, 8-bit and
    smaller floats one float32 scale per output channel. Everything else is taken as it is.
    """
    fmt = load(name)
    if isinstance(fmt, FixedFormat) and fmt.signed and fmt.fraction_bits == 0:
        return load(f"{fmt.name}-g128" if fmt.width < 8 else f"{fmt.name}-channel")
    if isinstance(fmt, FloatFormat) and fmt.bits <= 8 and fmt.signed:
        return BlockFormat(name=fmt.name, element=fmt, scale=load_float("fp32"), block=0)
    return fmt


def check_weight(weight: np.ndarray, what: str = "weight") -> np.ndarray:
    """`weight` as contiguous float32 of two dimensions, finite, or a sentence about why not."""
    if weight.ndim != 2 or 0 in weight.shape:
        raise InvalidInput(f"The {what} has shape {weight.shape}; a matrix is needed.")
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    finite_or_raise(weight, what)
    return weight


def needs_blocks(fmt: Any, method: str) -> BlockFormat:
    """Refuse formats without scales where the method needs them."""
    if not isinstance(fmt, BlockFormat):
        raise InvalidInput(
            f"{method} needs a format with scales, such as nvfp4, mxfp4 or int4-g128; "
            f"'{fmt.name}' has none. Use the method rtn for it."
        )
    return fmt


def no_data_note(calibration: Calibration, method: str) -> tuple[str, ...]:
    """The sentence to print where a calibrated method ran without data."""
    if calibration.rows:
        return ()
    return (
        f"No calibration data: {method} took every input channel alike and independent, which "
        "makes its result no better than round-to-nearest. Pass --calibration.",
    )


def damped_cholesky(hessian: np.ndarray, damping: float = DAMPING) -> tuple[np.ndarray, float]:
    """Lower Cholesky factor of H + d mean(diag H) I, and the d it took.

    d starts at `damping` and grows tenfold until the matrix is positive definite.

    Raises
    ------
    InvalidInput
        If the Hessian is not finite or stays indefinite.
    """
    if not np.isfinite(hessian).all():
        raise InvalidInput("The Hessian has NaN or infinite entries. Check the calibration data.")
    mean = float(np.mean(np.diag(hessian))) or 1.0
    step = damping or 1e-8
    for attempt in range(MAX_DAMPING_STEPS):
        used = damping if attempt == 0 else step * DAMPING_GROWTH**attempt
        try:
            eye = np.eye(len(hessian)) * (used * mean)
            return np.linalg.cholesky(hessian + eye), used
        except np.linalg.LinAlgError:
            continue
    raise InvalidInput(
        "The Hessian is not positive definite even when damped a million-fold; it is no matrix of "
        "second moments. Recompute it from the calibration inputs."
    )


def calibration_notes(
    calibration: Calibration, method: str, used: float, asked: float
) -> tuple[str, ...]:
    """Sentences about a method's Hessian: no data, too few rows, or more damping than asked for."""
    width = len(calibration.hessian)
    if used > asked:
        return (
            f"The Hessian was not positive definite at damping {asked:g}; {used:g} of its mean "
            "diagonal was added.",
        )
    if 0 < calibration.rows < width:
        return (
            f"{calibration.rows} calibration rows for {width} inputs: the Hessian is not positive "
            f"definite by itself; {used:g} of its mean diagonal was added. Give more rows.",
        )
    return no_data_note(calibration, method)


def weighted_error(error: np.ndarray, hessian: np.ndarray) -> float:
    """tr(E H E^T): the squared output error of a weight error E of shape (out, in)."""
    return float(np.einsum("ij,ij->", error @ hessian, error))
