"""The event loop twice: plain Python for small questions, compiled for large ones.

The package `loop` is one source. Imported as it is, it is plain Python and starts at once; loaded
a second time as `loop_compiled`, numba compiles each function and caches the result on disk.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

PLAIN = "isoflop.serving.loop"
COMPILED = "isoflop.serving.loop_compiled"
LARGE = 5_000
"""Requests above which loading the compiled loop pays,"""
HUGE = 300_000
"""and above which compiling it first, half a minute once per installation, pays too."""


def plain(module: str = "engine") -> ModuleType:
    """A module of the loop as plain Python."""
    return importlib.import_module(f"{PLAIN}.{module}")


@cache
def compiled(module: str = "engine") -> ModuleType | None:
    """A module of the loop compiled by numba, or None where numba is not installed."""
    if importlib.util.find_spec("numba") is None:
        return None
    if COMPILED not in sys.modules:
        origin = importlib.import_module(PLAIN)
        assert origin.__file__ is not None
        spec = importlib.util.spec_from_file_location(
            COMPILED, origin.__file__, submodule_search_locations=list(origin.__path__)
        )
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[COMPILED] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{COMPILED}.{module}")


def cached() -> bool:
    """Whether an earlier run has left the compiled loop on disk."""
    origin = importlib.import_module(PLAIN).__file__
    assert origin is not None
    return any((Path(origin).parent / "__pycache__").glob("engine.advance-*.nbi"))


def engine_for(requests: int) -> ModuleType:
    """The faster loop for so many requests."""
    wanted = requests >= HUGE or (requests >= LARGE and cached())
    fast = compiled() if wanted else None
    return fast if fast is not None else plain()
