"""Number formats as records: floating, posit, fixed, code book, power, block.

`load("fp8-e4m3")` finds a format by name; names follow the storage catalog of the cost engine.
"""

from __future__ import annotations

from .floating import FloatFormat
from .named import load, names

__all__ = ["FloatFormat", "load", "names"]
