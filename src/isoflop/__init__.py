"""isoflop: what bounds a language-model computation, and where the next unit of compute goes."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_LAZY = {"round_to": "numerics", "encode": "numerics", "decode": "numerics"}
"""Public name -> sub-package that holds it, imported on first use."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
