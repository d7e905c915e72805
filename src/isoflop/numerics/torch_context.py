"""A context in which every floating-point result of PyTorch is rounded, forward and backward.

Works at the dispatcher, below autograd, so whole modules, gradients and optimisers are rounded
without a change to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .context import Rounder, matmul_by, ordered_sum
from .formats import load

_UNSET = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")
"""Kernels whose results hold nothing yet."""


@contextmanager
def torch_rounding(format: Any, accumulate: Any = None, **options: Any) -> Iterator[None]:
    """A context in which floating-point results of PyTorch kernels are rounded to a format.

    Results of the kernel and tensors it changes in place are rounded once, at its end: a softmax
    or a convolution is one operation. With `accumulate`, sums, means and matrix products instead
    add up in order, each product rounded to `format` and each partial sum to `accumulate`; that
    runs in float64 on the host and is slow.

    Parameters
    ----------
    format : str or format record
        Every floating-point dtype met inside must be able to hold its values; a format of at most
        11 significant bits is emulated exactly in float32, one of at most 25 in float64.
    accumulate : str or format record, optional
        Of partial sums.
    options
        Of `round_to`: rounding, overflow, seed... Each stochastic rounding takes another seed.

    Raises
    ------
    InvalidInput
        From within, where a dtype cannot hold the format.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    fmt = load(format) if isinstance(format, str) else format
    wide = load(accumulate) if isinstance(accumulate, str) else accumulate
    rounder = Rounder(**options)
    own = _accumulating(torch, rounder, fmt, wide) if wide is not None else {}

    def rounded(value: Any) -> None:
        if isinstance(value, (list, tuple)):
            for part in value:
                rounded(part)
        elif isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
            rounder(value, fmt, out=value)

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            replaced = own.get(func)
            result = func(*args, **kwargs) if replaced is None else replaced(*args, **kwargs)
            if func.is_view or func.overloadpacket.__name__ in _UNSET:
                return result
            if func._schema.returns:
                rounded(result)
            else:  # changes its arguments, as optimisers over lists of tensors do
                for value, declared in zip(args, func._schema.arguments):
                    if declared.alias_info is not None and declared.alias_info.is_write:
                        rounded(value)
            return result

    with Mode():
        yield


def _accumulating(torch: Any, rounder: Rounder, fmt: Any, wide: Any) -> dict[Any, Callable]:
    """Matrix products and sums that round their partial sums, by kernel."""
    aten = torch.ops.aten

    def host(x: Any) -> np.ndarray:
        return x.detach().cpu().double().numpy()

    def like(x: Any, values: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(values)).to(x.device, x.dtype)

    def product(a: Any, b: Any, *_: Any, **__: Any) -> Any:
        return like(a, matmul_by(rounder, host(a), host(b), fmt, wide))

    def of_vector(a: Any, b: Any) -> Any:
        return like(a, matmul_by(rounder, host(a), host(b)[:, None], fmt, wide)[..., 0])

    def inner(a: Any, b: Any) -> Any:
        return like(a, matmul_by(rounder, host(a)[None], host(b)[:, None], fmt, wide)[0, 0])

    def added(first: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1, **_: Any) -> Any:
        total = matmul_by(rounder, host(a), host(b), fmt, wide)
        return like(a, beta * host(first) + alpha * total)

    def total(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        if not x.is_floating_point():
            return torch.sum(x, dim, keepdim, dtype=dtype)
        axis = tuple(dim) if isinstance(dim, (list, tuple)) and len(dim) else None
        axis = (dim,) if isinstance(dim, int) else axis
        values = ordered_sum(rounder, host(x), axis, wide)
        if keepdim:
            values = np.expand_dims(values, axis if axis is not None else tuple(range(x.dim())))
        return like(x if dtype is None else x.to(dtype), values)

    def mean(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        summed = total(x, dim, keepdim, dtype=dtype)
        return summed / (x.numel() / max(summed.numel(), 1))

    return {
        aten.mm.default: product, aten.bmm.default: product, aten.mv.default: of_vector,
        aten.dot.default: inner, aten.addmm.default: added, aten.baddbmm.default: added,
        aten.sum.default: total, aten.sum.dim_IntList: total,
        aten.mean.default: mean, aten.mean.dim: mean,
    }  # fmt: skip
