"""Number formats as records: floating, posit, fixed, code book, power, block.

`load("fp8-e4m3")` finds a format by name; names follow the storage catalog of the cost engine.
"""

from __future__ import annotations

from .block import BlockFormat
from .floating import FloatFormat
from .named import load, load_float, names, p3109
from .posit import PositFormat
from .table import CodebookFormat, FixedFormat, PowerFormat

Scalar = FloatFormat | PositFormat | FixedFormat | CodebookFormat | PowerFormat
"""A format whose values stand alone."""

__all__ = [
    "BlockFormat",
    "CodebookFormat",
    "FixedFormat",
    "FloatFormat",
    "PositFormat",
    "PowerFormat",
    "Scalar",
    "load",
    "load_float",
    "names",
    "p3109",
]
