"""Hooks for training with quantization: learned step size (LSQ) and straight-through rounding.

References
----------
Esser et al., Learned Step Size Quantization, arXiv 1902.08153: equations 1 to 3 (quantizer and
step gradient), section 2.2 (gradient scale 1 / sqrt(N Q_p), first step 2 mean|v| / sqrt(Q_p)).
"""

from __future__ import annotations

import numpy as np


def lsq_initial_step(values: np.ndarray, high: int) -> float:
    """The step to start from: 2 mean|v| / sqrt(Q_p)."""
    return float(2 * np.abs(values).mean() / np.sqrt(high))


def lsq_forward(values: np.ndarray, step: float, low: int, high: int) -> np.ndarray:
    """clip(round(v / s), -Q_n, Q_p) s."""
    return np.rint(np.clip(values / step, low, high)) * step


def lsq_backward(
    values: np.ndarray, step: float, low: int, high: int, upstream: np.ndarray
) -> tuple[np.ndarray, float]:
    """Gradients of the loss with respect to the values (straight through inside the range) and to
    the step (already scaled by 1 / sqrt(N Q_p))."""
    y = values / step
    inside = (y > low) & (y < high)
    to_step = np.where(inside, np.rint(y) - y, np.clip(y, low, high))
    scale = 1 / np.sqrt(values.size * high)
    return upstream * inside, float((upstream * to_step).sum() * scale)


def torch_round(x, format, **options):
    """`round_to` for PyTorch training: rounds forward, passes gradients straight through."""
    import torch

    from .rounding import round_to

    class _Round(torch.autograd.Function):
        @staticmethod
        def forward(context, tensor):
            return round_to(tensor, format, **options)

        @staticmethod
        def backward(context, gradient):
            return gradient

    return _Round.apply(x)
