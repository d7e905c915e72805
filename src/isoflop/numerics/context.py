"""NumPy computations in which every operation is rounded to a format.

`Rounded` arrays round each ufunc, reduction and matrix product; `torch_context.torch_rounding` does
the same to PyTorch.

References
----------
Higham and Pranesh, Simulating Low Precision Floating-Point Arithmetic, SIAM J. Sci. Comput. 41
(2019): rounding the result of every double-precision operation emulates a format with at most 25
significant bits exactly, as the double rounding is innocuous.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from ..errors import InvalidInput
from .formats import load
from .rounding import round_to

_EXACT_REDUCTIONS = ("maximum", "minimum", "logical_and", "logical_or")


class Rounder:
    """Rounds array after array with the same options, stochastic ones by fresh random words.

    Parameters
    ----------
    options
        Of `round_to`: rounding, overflow, seed... A stochastic direction takes seed, seed + 1, ...
        in the order of calls: with one seed for all, a value that sits at the same place in every
        array would be rounded the same way each time, and sums would drift.
    """

    def __init__(self, **options: Any):
        self.options = options
        self.calls = 0

    def __call__(self, x: Any, format: Any, out: Any = None) -> Any:
        """`x` rounded to a format record; None leaves it alone."""
        if format is None:
            return x
        options = self.options
        if options.get("rounding") == "stochastic":
            options = options | {"seed": options.get("seed", 0) + self.calls}
            self.calls += 1
        return round_to(x, format, out=out, **options)


def _record(format: Any) -> Any:
    return load(format) if isinstance(format, str) else format


def matmul(a: np.ndarray, b: np.ndarray, product: Any, accumulate: Any, **options) -> np.ndarray:
    """a (..., m, k) times b (..., k, n): each product rounded to one format, each partial sum to
    another, sums over k in order.

    `product` or `accumulate` may be None for no rounding (float64). Options as in `Rounder`.
    """
    rounder = Rounder(**options)
    return matmul_by(rounder, a, b, _record(product), _record(accumulate))


def matmul_by(
    rounder: Rounder, a: np.ndarray, b: np.ndarray, product: Any, accumulate: Any
) -> np.ndarray:
    """`matmul` with a rounder that others may share."""
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise InvalidInput(f"Shapes {a.shape} and {b.shape} cannot be multiplied.")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total = np.zeros((*batch, a.shape[-2], b.shape[-1]))
    for k in range(a.shape[-1]):
        term = rounder(a[..., :, k, None] * b[..., k, None, :], product)
        total = rounder(total + term, accumulate)
    return total


def ordered_sum(
    rounder: Rounder, x: np.ndarray, axis: int | tuple[int, ...] | None, accumulate: Any
) -> np.ndarray:
    """Sum over axes (all for None) in order of position, each partial sum rounded."""
    axes = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
    axes = tuple(sorted(a % x.ndim for a in axes)) if x.ndim else ()
    moved = np.moveaxis(x, axes, range(len(axes)))
    rows = moved.reshape(-1, *moved.shape[len(axes) :])
    total = np.zeros(rows.shape[1:])
    for row in rows:
        total = rounder(total + row, accumulate)
    return np.asarray(total)


class Rounded(NDArrayOperatorsMixin):
    """A float64 array whose every elementwise result, sum and product is rounded to a format.

    Parameters
    ----------
    values : array
        Rounded on entry.
    format, accumulate : str or format record
        Of elementwise results, and of partial sums in reductions and matrix products (the same
        unless told).
    options
        Of `round_to`: rounding, overflow, seed...
    """

    __array_priority__ = 20.0

    def __init__(self, values: Any, format: Any, accumulate: Any = None, **options: Any):
        self.format = load(format) if isinstance(format, str) else format
        wide = accumulate if accumulate is not None else self.format
        self.accumulate = load(wide) if isinstance(wide, str) else wide
        self.rounder = options.pop("rounder", None) or Rounder(**options)
        self.values = self._round(np.asarray(values, np.float64), self.format)

    def _round(self, x: np.ndarray, fmt: Any) -> np.ndarray:
        return np.asarray(self.rounder(np.asarray(x, np.float64), fmt))

    def _new(self, x: np.ndarray) -> Rounded:
        return Rounded(x, self.format, self.accumulate, rounder=self.rounder)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.values.astype(dtype or np.float64)

    def __getitem__(self, key: Any) -> Rounded:
        return self._new(self.values[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.values[key] = self._round(np.asarray(value, np.float64), self.format)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Rounded({self.values!r}, {self.format.name!r})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.values.shape

    @property
    def T(self) -> Rounded:
        """The transpose."""
        return self._new(self.values.T)

    def sum(self, axis: Any = None, dtype: Any = None, out: Any = None) -> Rounded:
        """Sum in order, each partial sum rounded to the accumulate format."""
        if dtype is not None or out is not None:
            raise InvalidInput("Sums of rounded arrays take no dtype and no out.")
        return self._new(ordered_sum(self.rounder, self.values, axis, self.accumulate))

    def mean(self, axis: Any = None, dtype: Any = None, out: Any = None) -> Rounded:
        """The sum over the count, rounded."""
        total = self.sum(axis, dtype, out)
        return total / (self.values.size / max(total.values.size, 1))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if options.get("out") is not None:
            return NotImplemented
        plain = [i.values if isinstance(i, Rounded) else self._input(i) for i in inputs]
        if method == "reduce" and ufunc is np.add:
            return self.sum(options.get("axis", 0))
        if method == "reduce" and ufunc.__name__ in _EXACT_REDUCTIONS:
            return self._new(np.asarray(ufunc.reduce(*plain, **options)))
        if method != "__call__":
            return NotImplemented
        if ufunc is np.matmul:
            return self._matmul(*plain)
        with np.errstate(all="ignore"):
            result = ufunc(*plain, **options)
        if isinstance(result, tuple) or result.dtype.kind != "f":
            return result
        return self._new(result)

    def _input(self, x: Any) -> Any:
        x = np.asarray(x)
        return self._round(x, self.format) if x.dtype.kind == "f" else x

    def _matmul(self, a: np.ndarray, b: np.ndarray) -> Rounded:
        two_a = a if a.ndim > 1 else a[None]
        two_b = b if b.ndim > 1 else b[:, None]
        result = matmul_by(self.rounder, two_a, two_b, self.format, self.accumulate)
        result = result if b.ndim > 1 else result[..., 0]
        return self._new(result if a.ndim > 1 else result[(*[slice(None)] * (b.ndim - 2), 0)])
