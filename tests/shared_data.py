"""Where the measured data of the project's benchmarks lies, if it lies anywhere."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("ISOFLOP_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def data(path: str) -> Path:
    """A measured file, or a skip that says which one is absent."""
    found = FOLDER / "data" / path
    if not found.exists():
        pytest.skip(f"measured data '{path}' is not beside this checkout")
    return found
