"""A small generated checkpoint to try `isoflop quantize` on: no trained weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .safetensors import Writer, to_words

LAYERS = 2
HIDDEN, INNER = 256, 704
ROWS = 512
"""Calibration rows per layer."""
OUTLIER_CHANNELS = 3
OUTLIER = 20.0
"""Factor on a few input channels, as trained transformers show (Dettmers et al. 2022)."""


def write_demo(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Write a two-layer transformer's matrices and correlated inputs; returns both files.

    Weights are Student-t with 5 degrees of freedom, heavier-tailed than normal as trained ones
    are; inputs are correlated and a few channels are outliers.
    """
    rng = np.random.default_rng(seed)
    shapes = {
        "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }  # fmt: skip
    names = {f"model.layers.{i}.{n}.weight": s for i in range(LAYERS) for n, s in shapes.items()}
    weights, inputs = folder / "demo.safetensors", folder / "demo-inputs.safetensors"
    out = Writer(weights, {n: ("BF16", s) for n, s in names.items()}, {"format": "pt"})
    seen = Writer(inputs, {n: ("F32", (ROWS, s[1])) for n, s in names.items()}, {})
    for name, (rows, columns) in names.items():
        values = rng.standard_t(5, (rows, columns)) / np.sqrt(columns)
        out.write(name, to_words(values.astype(np.float32), "BF16"))
        mix = rng.standard_normal((columns, columns)) / np.sqrt(columns)
        x = rng.standard_normal((ROWS, columns)) @ (0.5 * mix + np.eye(columns))
        x[:, rng.choice(columns, OUTLIER_CHANNELS, replace=False)] *= OUTLIER
        seen.write(name, to_words(x.astype(np.float32), "F32"))
    out.finish()
    seen.finish()
    return weights, inputs
