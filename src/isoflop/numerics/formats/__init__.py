"""Number formats as records: floating, posit, fixed, code book, power, block.

`load("fp8-e4m3")` finds a format by name; names follow the storage catalog of the cost engine.
"""

from __future__ import annotations

from .block import BlockFormat, Blocks
from .floating import FloatFormat
from .named import load, names, p3109
from .posit import PositFormat
from .table import CodebookFormat, FixedFormat, PowerFormat

__all__ = [
    "BlockFormat",
    "Blocks",
    "CodebookFormat",
    "FixedFormat",
    "FloatFormat",
    "PositFormat",
    "PowerFormat",
    "load",
    "names",
    "p3109",
]
