"""Counts of agreement: with the peer libraries installed here, exact arithmetic, and theorems.

One file per peer or oracle; each has `check()`, which returns records.
"""

from __future__ import annotations

from typing import Any

from ... import registry

PACKAGE = __name__


def run() -> list[dict[str, Any]]:
    """Every check that can run here, one record each."""
    return [
        record
        for name in registry.names(PACKAGE)
        for record in registry.find(PACKAGE, name, "check", "conformance check")()
    ]
