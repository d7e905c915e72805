"""Conformance vectors are read from the shared data folder; tests skip where it is absent."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from isoflop.numerics import _floatround


@pytest.fixture(scope="session")
def vectors():
    """A loader of conformance vector files (JSON or NPZ)."""
    root = Path(__file__).resolve().parents[2]
    shared = Path(os.environ.get("ISOFLOP_SHARED", root.parent / "shared"))
    folder = shared / "data" / "numerics"
    if not folder.is_dir():
        pytest.skip(f"conformance vectors are not at {folder}; set ISOFLOP_SHARED")

    def load(name):
        path = folder / name
        return np.load(path) if path.suffix == ".npz" else json.loads(path.read_text())

    return load


@pytest.fixture(params=["plain", "compiled"])
def body(request, monkeypatch):
    """Run a test on the NumPy body and on the compiled one."""
    if request.param == "compiled" and _floatround.kernels() is None:
        pytest.skip("numba is not installed")
    monkeypatch.setattr(_floatround, "FORCED", request.param)
    return request.param
