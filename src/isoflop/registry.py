"""Plug-ins: one Python file each in an open folder, found by file name.

A folder such as `isoflop/scaling/laws/` is open: dropping `chinchilla.py` into it registers
`chinchilla`. The file defines exactly one public object under a known attribute name.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from .errors import UnknownName


def names(package: str) -> tuple[str, ...]:
    """Names of the plug-ins in an open package, sorted; private modules are not plug-ins."""
    module = importlib.import_module(package)
    found = (m.name for m in pkgutil.iter_modules(module.__path__))
    return tuple(sorted(n.replace("_", "-") for n in found if not n.startswith("_")))


@cache
def find(package: str, name: str, attribute: str, noun: str) -> Any:
    """The object called `attribute` in the plug-in `name` of `package`.

    Raises
    ------
    UnknownName
        If no such plug-in exists.
    """
    wanted = name.strip().lower().replace("_", "-")
    available = names(package)
    if wanted not in available:
        raise UnknownName(noun, name, available)
    return getattr(importlib.import_module(f"{package}.{wanted.replace('-', '_')}"), attribute)
