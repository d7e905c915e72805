"""Round every operation of a computation: NumPy arrays that stay in a format, and PyTorch modules.

`Rounded` arrays round each ufunc and each matrix product. `torch_rounding` is a context in which
every floating-point result of PyTorch is rounded, forward and backward.

References
----------
Higham and Pranesh, Simulating Low Precision Floating-Point Arithmetic, SIAM J. Sci. Comput. 41
(2019): rounding the result of every double-precision operation emulates a format with at most 25
significant bits exactly, as the double rounding is innocuous.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from ..errors import InvalidInput
from .formats import load
from .rounding import round_to

_SUMS = {"sum", "add"}


def matmul(a: np.ndarray, b: np.ndarray, product: Any, accumulate: Any, **options) -> np.ndarray:
    """a (m, k) times b (k, n): each product rounded to one format, each partial sum to another.

    Sums run over k in order. `product` or `accumulate` may be None for no rounding (float64).
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise InvalidInput(f"Shapes {a.shape} and {b.shape} cannot be multiplied.")
    total = np.zeros((a.shape[0], b.shape[1]))
    for k in range(a.shape[1]):
        term = a[:, k, None] * b[None, k]
        if product is not None:
            term = round_to(term, product, **options)
        total = total + term
        if accumulate is not None:
            total = round_to(total, accumulate, **options)
    return total


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
        self.options = options
        self.values = self._round(np.asarray(values, np.float64), self.format)

    def _round(self, x: np.ndarray, fmt: Any) -> np.ndarray:
        return np.asarray(round_to(np.asarray(x, np.float64), fmt, **self.options))

    def _new(self, x: np.ndarray) -> Rounded:
        return Rounded(x, self.format, self.accumulate, **self.options)

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

    def sum(self, axis: int | None = None) -> Rounded:
        """Sum in order, each partial sum rounded to the accumulate format."""
        x = self.values.ravel() if axis is None else np.moveaxis(self.values, axis, 0)
        total = np.zeros(x.shape[1:])
        for row in x:
            total = self._round(total + row, self.accumulate)
        return self._new(total)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method == "reduce" and ufunc.__name__ in _SUMS:
            return self.sum(options.get("axis", 0))
        if method != "__call__" or options.get("out") is not None:
            return NotImplemented
        plain = [i.values if isinstance(i, Rounded) else self._input(i) for i in inputs]
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
        two_a = a if a.ndim == 2 else a[None]
        two_b = b if b.ndim == 2 else b[:, None]
        result = matmul(two_a, two_b, self.format, self.accumulate, **self.options)
        shape = (*a.shape[:-1], *(b.shape[1:] if b.ndim == 2 else ()))
        return self._new(result.reshape(shape))


@contextmanager
def torch_rounding(format: Any, **options: Any):
    """A context in which every float32 or float64 CPU result of PyTorch is rounded to a format.

    Works at the dispatcher, below autograd, so gradients computed inside are rounded too. Each
    whole kernel (a matrix product, a softmax) is rounded once, at its end.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    fmt = load(format) if isinstance(format, str) else format

    def rounded(value: Any) -> Any:
        plain = isinstance(value, torch.Tensor) and value.dtype in (torch.float32, torch.float64)
        if plain and value.numel() and value.is_contiguous():
            round_to(value, fmt, out=value, **options)
        return value

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, kinds, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            if function.is_view or not function._schema.returns:
                return result
            if isinstance(result, (tuple, list)):
                return type(result)(rounded(r) for r in result)
            return rounded(result)

    with Mode():
        yield
