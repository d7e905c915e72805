"""Read and write safetensors files tensor by tensor, in memory bounded by one tensor.

The layout (huggingface/safetensors README): 8 bytes little-endian header length, a JSON header
{name: {dtype, shape, data_offsets}}, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from ..errors import InvalidInput, UnknownName

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit on the header."""

DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"), "I64": np.dtype("<i8"), "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"), "I8": np.dtype("i1"), "U8": np.dtype("u1"), "BOOL": np.dtype("u1"),
    "U16": np.dtype("<u2"), "U32": np.dtype("<u4"), "U64": np.dtype("<u8"),
    "F8_E4M3": np.dtype("u1"), "F8_E5M2": np.dtype("u1"), "F8_E8M0": np.dtype("u1"),
}  # fmt: skip
"""dtype name -> NumPy type of its bytes (BF16 and FP8 as raw words)."""

FLOATS = ("F64", "F32", "F16", "BF16")


@frozen(kw_only=True)
class TensorInfo:
    """One entry of a header; offsets count from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class SafetensorsFile:
    """An open checkpoint whose header has been checked completely.

    Raises
    ------
    InvalidInput
        If the file is missing, truncated, has overlapping or mis-shaped tensors, or a bad header.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            size = self.path.stat().st_size
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                    raise self._bad(f"is {size} bytes, too short for its {length}-byte header")
                raw = file.read(length)
        except OSError as error:
            raise self._bad(f"cannot be read: {error.strerror}") from None
        self._start = 8 + length
        self.metadata, self.tensors = self._parse(raw, size - self._start)

    def _bad(self, what: str) -> InvalidInput:
        return InvalidInput(f"'{self.path}' {what}. Download or write the safetensors file again.")

    def _parse(self, raw: bytes, data_bytes: int) -> tuple[dict, dict[str, TensorInfo]]:
        try:
            header = json.loads(raw)
        except (ValueError, UnicodeDecodeError):
            raise self._bad("has a header that is not JSON; it is no safetensors file") from None
        if not isinstance(header, dict):
            raise self._bad("has a header that is no JSON object")
        metadata = header.pop("__metadata__", {})
        tensors = {name: self._entry(name, entry) for name, entry in header.items()}
        at = 0
        for info in sorted(tensors.values(), key=lambda t: (t.begin, t.end)):
            if info.begin != at:
                raise self._bad(f"has a gap or overlap before the tensor '{info.name}'")
            at = info.end
        if at != data_bytes:
            raise self._bad(f"has {data_bytes} bytes of data where its header announces {at}")
        return metadata, tensors

    def _entry(self, name: str, entry: Any) -> TensorInfo:
        try:
            dtype, shape = entry["dtype"], tuple(int(n) for n in entry["shape"])
            begin, end = (int(n) for n in entry["data_offsets"])
        except (TypeError, KeyError, ValueError):
            raise self._bad(f"describes the tensor '{name}' incompletely") from None
        if dtype not in DTYPES:
            raise self._bad(f"has the tensor '{name}' of unknown type {dtype}")
        needed = math.prod(shape) * DTYPES[dtype].itemsize
        if min(shape, default=0) < 0 or begin < 0 or end - begin != needed:
            raise self._bad(
                f"gives the tensor '{name}' {end - begin} bytes; shape {list(shape)} of {dtype} "
                f"needs {needed}"
            )
        return TensorInfo(name=name, dtype=dtype, shape=shape, begin=begin, end=end)

    def raw(self, name: str) -> np.ndarray:
        """A tensor's words as a read-only memory map."""
        info = self._info(name)
        if info.size == 0:
            return np.empty(info.shape, DTYPES[info.dtype])
        return np.memmap(
            self.path, DTYPES[info.dtype], "r", offset=self._start + info.begin, shape=info.shape
        )

    def float32(self, name: str) -> np.ndarray:
        """A float tensor's values as float32 (exact for 16-bit types)."""
        return self._float32(self._float_words(name), name)

    def row_chunks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """A float tensor of shape (..., width) as float32, so many rows at a time."""
        words = self._float_words(name)
        words = words.reshape(-1, words.shape[-1])
        for first in range(0, len(words), rows):
            yield self._float32(words[first : first + rows], name)

    def _float_words(self, name: str) -> np.ndarray:
        info = self._info(name)
        if info.dtype not in FLOATS:
            raise InvalidInput(f"The tensor '{name}' is {info.dtype}; a float tensor is needed.")
        return self.raw(name)

    def _float32(self, words: np.ndarray, name: str) -> np.ndarray:
        if self.tensors[name].dtype == "BF16":
            return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return words.astype(np.float32)

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise UnknownName("tensor", name, self.tensors, f"The file is '{self.path}'.")
        return self.tensors[name]


def to_words(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values as words of F64, F32, F16 or BF16 (rounded to nearest even)."""
    if dtype == "BF16":
        from .rounding import encode

        return encode(values, "bf16", overflow="saturate")
    with np.errstate(over="ignore"):
        return values.astype(DTYPES[dtype])


class Writer:
    """Write a safetensors file whose layout is known beforehand, tensor by tensor.

    Data goes to `<path>.partial`, which is renamed when complete; an interrupted run can reopen
    it with `resume=True` and fill in what is missing.
    """

    def __init__(
        self,
        path: str | Path,
        layout: Mapping[str, tuple[str, tuple[int, ...]]],
        metadata: Mapping[str, str],
        resume: bool = False,
    ):
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        self._at: dict[str, tuple[int, int, str]] = {}
        at = 0
        for name, (dtype, shape) in layout.items():
            end = at + math.prod(shape) * DTYPES[dtype].itemsize
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
            self._at[name] = (at, end, dtype)
            at = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._start, self._end = 8 + len(text), 8 + len(text) + at
        self._open(len(text).to_bytes(8, "little") + text, resume)

    def _open(self, head: bytes, resume: bool) -> None:
        try:
            if resume and self.partial.exists():
                self._file = self.partial.open("r+b")
                if self._file.read(len(head)) == head:
                    return
                self._file.close()
                raise InvalidInput(
                    f"'{self.partial}' was written with other settings. Delete it to start again."
                )
            self._file = self.partial.open("w+b")
            self._file.write(head)
            self._file.truncate(self._end)
        except OSError as error:
            raise InvalidInput(
                f"'{self.partial}' cannot be written: {error.strerror}. Choose another folder."
            ) from None

    def write(self, name: str, words: np.ndarray) -> None:
        """Write one tensor's words."""
        begin, end, dtype = self._at[name]
        data = np.ascontiguousarray(words, dtype=DTYPES[dtype])
        if data.nbytes != end - begin:
            raise InvalidInput(f"'{name}' has {data.nbytes} bytes where {end - begin} were planned")
        self._file.seek(self._start + begin)
        self._file.write(data.tobytes())
        self._file.flush()

    def finish(self) -> None:
        """Close and move into place."""
        self._file.close()
        os.replace(self.partial, self.path)

    def close(self) -> None:
        """Close without moving; the partial file stays for a resume."""
        self._file.close()
