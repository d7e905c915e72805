"""NumPy, PyTorch and JAX arrays as flat NumPy views, without copies where memory allows."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen

from ..errors import InvalidInput

RANGES = {
    "float16": (10, -24, 15), "bfloat16": (7, -133, 127), "float32": (23, -149, 127),
    "float64": (52, -1074, 1023),
}  # fmt: skip
"""dtype -> mantissa bits, exponent of the smallest subnormal, exponent of the largest value."""


@frozen(kw_only=True)
class View:
    """An input array: its kind, its dtype's name and its data as NumPy.

    Attributes
    ----------
    data : np.ndarray
        float16, float32, float64, or uint16 holding bfloat16 bits.
    kind : {"numpy", "torch", "jax"}
    """

    original: Any
    data: np.ndarray
    dtype_name: str
    kind: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the input."""
        return self.data.shape

    def floats(self) -> np.ndarray:
        """The values as contiguous float32 (16-bit inputs, exactly) or the input's own dtype."""
        return _floats(self.data, self.dtype_name)

    def target(self, out: Any, source: np.ndarray) -> np.ndarray:
        """A flat array for results of `source`'s dtype: `out`'s memory where it can be."""
        if out is not None:
            given = view(out)
            if given.dtype_name != self.dtype_name or given.shape != self.shape:
                raise InvalidInput(
                    f"out is {given.dtype_name} of shape {given.shape}; it must match x, "
                    f"{self.dtype_name} of shape {self.shape}."
                )
            if not given.data.flags.writeable:
                raise InvalidInput("out is read-only.")
            if given.data.dtype == source.dtype and given.data.flags.c_contiguous:
                return given.data.reshape(-1)
        return np.empty(source.size, dtype=source.dtype)

    def finish(self, flat: np.ndarray, out: Any) -> Any:
        """Flat results as an array of the input's kind, or in `out`."""
        if out is not None and np.shares_memory(flat, view(out).data):
            return out
        return self.wrap(flat.reshape(self.shape), out)

    def wrap(self, result: np.ndarray, out: Any = None) -> Any:
        """`result` in the input's dtype and kind; copied into `out` if given."""
        narrow = _narrow(result, self.dtype_name)
        if out is not None:
            view(out).data[...] = narrow
            return out
        return _to_kind(narrow, self)


def _floats(data: np.ndarray, dtype_name: str) -> np.ndarray:
    if dtype_name == "bfloat16":
        return (data.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype_name == "float16":
        return data.astype(np.float32)
    return np.ascontiguousarray(data)


def _narrow(result: np.ndarray, dtype_name: str) -> np.ndarray:
    if dtype_name == "bfloat16":
        # Float formats fit bfloat16, so the low half is zero; other formats' values round to even.
        bits = np.ascontiguousarray(result, dtype=np.float32).view(np.uint32)
        upper = bits >> np.uint32(16)
        if np.any(bits & np.uint32(0xFFFF)):
            up = (bits + (np.uint32(0x7FFF) + (upper & np.uint32(1)))) >> np.uint32(16)
            upper = np.where(np.isnan(bits.view(np.float32)), upper | np.uint32(0x40), up)
        return upper.astype(np.uint16)
    with np.errstate(over="ignore"):  # of posits, whose range no dtype is asked to hold
        return result.astype(dtype_name, copy=False)


def _to_kind(data: np.ndarray, like: View) -> Any:
    if like.kind == "torch":
        import torch

        tensor = torch.from_numpy(data.view(np.int16) if like.dtype_name == "bfloat16" else data)
        return tensor.view(torch.bfloat16) if like.dtype_name == "bfloat16" else tensor
    if like.dtype_name == "bfloat16":
        data = data.view(_bfloat16_dtype(like.original))
    return of_kind(data, like.kind)


def _bfloat16_dtype(original: Any) -> np.dtype:
    return np.dtype(original.dtype)


def kind_of(x: Any) -> str:
    """The library an array belongs to: numpy (also lists and scalars), torch or jax."""
    module = type(x).__module__.partition(".")[0]
    return "torch" if module == "torch" else "jax" if module in ("jax", "jaxlib") else "numpy"


def of_kind(data: np.ndarray, kind: str) -> Any:
    """A NumPy array as a CPU tensor (sharing memory), a JAX array or itself."""
    if kind == "torch":
        import torch

        return torch.from_numpy(data)
    if kind == "jax":
        import jax.numpy as jnp

        return jnp.asarray(data)
    return data


def view(x: Any) -> View:
    """Look at an array-like as NumPy.

    Raises
    ------
    InvalidInput
        For integers, other dtypes, or tensors that are not on the CPU.
    """
    kind = kind_of(x)
    if kind == "torch":
        return _torch_view(x)
    data = np.asarray(x)
    if kind == "numpy" and not isinstance(x, (np.ndarray, np.generic)) and data.dtype.kind in "iu":
        data = data.astype(np.float64)
    name = data.dtype.name
    if name == "bfloat16":
        return View(original=x, data=data.view(np.uint16), dtype_name=name, kind=kind)
    if name not in RANGES:
        raise InvalidInput(f"The input is {name}; float16, bfloat16, float32 or float64 is needed.")
    return View(original=x, data=data, dtype_name=name, kind=kind)


def _torch_view(x: Any) -> View:
    import torch

    name = str(x.dtype).removeprefix("torch.")
    if name not in RANGES:
        raise InvalidInput(f"The input is {name}; float16, bfloat16, float32 or float64 is needed.")
    if x.device.type != "cpu":
        raise InvalidInput(
            f"The tensor is on {x.device}; only CPU tensors are supported. Call x.cpu() first."
        )
    tensor = x.detach()
    if name == "bfloat16":
        data = tensor.view(torch.int16).numpy().view(np.uint16)
    else:
        data = tensor.numpy()
    return View(original=x, data=data, dtype_name=name, kind="torch")


def finite_or_raise(x: np.ndarray, what: str) -> None:
    """Raise `InvalidInput` naming the first NaN or infinity of `x`."""
    if np.isfinite(x).all():
        return
    bad = ~np.isfinite(x)
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), x.shape))
    raise InvalidInput(
        f"The value at {place} is {x[place]} ({int(bad.sum())} of {x.size} are NaN or infinite); "
        f"'{what}' needs finite values. Fix the tensor first."
    )
