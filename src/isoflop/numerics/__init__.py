"""L2: number formats emulated exactly, quantizers, and approximate arithmetic."""

from __future__ import annotations

from .formats import load as load_format
from .formats import names as format_names
from .packing import pack, unpack
from .rounding import decode, encode, encode_blocks, round_to

__all__ = [
    "decode",
    "encode",
    "encode_blocks",
    "format_names",
    "load_format",
    "pack",
    "round_to",
    "unpack",
]
