"""FP4 training: the quantizers of forward and backward passes, and when 4 bits stop helping.

`recipes` makes linear layers of them.

References
----------
Castro et al., Quartet, arXiv 2505.14669 (Hadamard rotation per group, MSE-fitted forward scale,
stochastic backward); Chmiel et al., FP4 All the Way, arXiv 2505.19115 (NVFP4, rounding to nearest
forward and stochastically backward; FP4 gradients stop helping once their root mean square falls
below sqrt(3) times the quantization noise).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ..errors import InvalidInput
from .formats import load
from .rounding import round_to

GROUP = 32
QUEST_GAUSSIAN_RANGE = 2.92247856
"""Half-range, in standard deviations, of the least-squares 4-bit float grid on normal data."""

FP4_MAX = 6.0
BACKWARD_HEADROOM = 0.75
"""Values are shrunk to 3/4 of the range before stochastic rounding so that nothing clips; the
product of two such operands is multiplied by 16/9."""

NOISE_RATIO = np.sqrt(3.0)


@cache
def hadamard(size: int) -> np.ndarray:
    """The orthonormal Hadamard matrix of a power-of-two size, float32."""
    if size < 1 or size & (size - 1):
        raise InvalidInput(f"A Hadamard matrix of {size} is not built here; use a power of two.")
    h = np.ones((1, 1))
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    return (h / np.sqrt(size)).astype(np.float32)


def _groups(x: np.ndarray) -> np.ndarray:
    if x.shape[-1] % GROUP:
        raise InvalidInput(f"Rows of {x.shape[-1]} values do not divide into groups of {GROUP}.")
    return x.reshape(-1, GROUP)


def rotate(x: np.ndarray, signs: np.ndarray | None = None) -> np.ndarray:
    """Hadamard-rotate groups of 32 along the last axis, after flipping signs if given (32,)."""
    groups = _groups(x)
    if signs is not None:
        groups = groups * signs
    return (groups @ hadamard(GROUP)).reshape(x.shape).astype(np.float32)


def quartet_forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """MXFP4 values with the scale fitted to the group's spread, and the mask of unclipped values.

    Ties go toward zero, as in the published kernels. Because the power of two is rounded down, the
    mean squared error on normal data is 0.016 to 0.027 with the group's spread (0.013 for MXFP4
    scaled by the largest value); what it keeps is a mask and a scale that outliers do not move.
    """
    groups = _groups(x)
    spread = groups.std(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        power = np.floor(np.log2(QUEST_GAUSSIAN_RANGE / FP4_MAX * spread + 1e-8))
    y = (groups / 2.0**power).astype(np.float32)
    q = round_to(y, "fp4-e2m1", rounding="nearest_zero", overflow="saturate") * 2.0**power
    return q.reshape(x.shape).astype(np.float32), (np.abs(y) < FP4_MAX).reshape(x.shape)


def quartet_backward(x: np.ndarray, seed: int) -> np.ndarray:
    """MXFP4 values of 3/4 x rounded stochastically: unbiased, and nothing clips."""
    groups = _groups(x)
    amax = np.abs(groups).max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        power = np.where(amax > 0, np.floor(np.log2(np.where(amax > 0, amax, 1))) - 2, 0)
    y = (groups * (BACKWARD_HEADROOM / 2.0**power)).astype(np.float32)
    q = round_to(y, "fp4-e2m1", rounding="stochastic", overflow="saturate", seed=seed)
    return (q * 2.0**power).reshape(x.shape).astype(np.float32)


def noise_ratio(gradient: np.ndarray, format: Any = "nvfp4") -> float:
    """Root mean square of a gradient over that of its quantization error; FP4 training should
    give way to higher precision once it is below `NOISE_RATIO` = sqrt(3)."""
    fmt = load(format) if isinstance(format, str) else format
    rows = gradient.reshape(-1, gradient.shape[-1])
    error = round_to(rows, fmt, rounding="stochastic") - rows
    noise = float(np.sqrt(np.mean(error.astype(np.float64) ** 2)))
    return float(np.sqrt(np.mean(rows.astype(np.float64) ** 2))) / noise if noise else np.inf
