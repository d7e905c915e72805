"""Hooks for training with quantization: learned step size (LSQ) and straight-through rounding.

References
----------
Esser et al., Learned Step Size Quantization, arXiv 1902.08153: equations 1 to 3 (quantizer and
step gradient), section 2.2 (gradient scale 1 / sqrt(N Q_p), first step 2 mean|v| / sqrt(Q_p)).
"""

from __future__ import annotations

import numpy as np

from ..errors import InvalidInput


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


def lsq_linear(inputs: int, outputs: int, bits: int = 4, activation_bits: int | None = None):
    """A `torch.nn.Linear` on learned steps: weights, and inputs if asked, as b-bit integers.

    Steps are parameters (`weight_step`, `input_step`) and train with the rest; the weights' starts
    from the weights, the inputs' from the first batch. Inputs are taken as signed.

    Parameters
    ----------
    bits, activation_bits : int
        2 to 8; None leaves the inputs alone.
    """
    import torch

    for width in (bits, activation_bits):
        if width is not None and not 2 <= width <= 8:
            raise InvalidInput(f"Learned steps take 2 to 8 bits, not {width}.")

    class Quantize(torch.autograd.Function):
        @staticmethod
        def forward(context, values, step, high):
            context.save_for_backward(values, step)
            context.high = high
            y = torch.clamp(values / step, -high - 1, high)
            return torch.round(y) * step

        @staticmethod
        def backward(context, gradient):
            values, step = context.saved_tensors
            to_values, to_step = lsq_backward(
                values.detach().numpy(), step.item(), -context.high - 1, context.high,
                gradient.numpy(),
            )  # fmt: skip
            return torch.from_numpy(to_values), torch.full_like(step, to_step), None

    def initial(values, high):
        return max(lsq_initial_step(values.detach().numpy(), high), 1e-8)

    class LsqLinear(torch.nn.Linear):
        def __init__(self):
            super().__init__(inputs, outputs)
            self.high = (1 << (bits - 1)) - 1
            start = initial(self.weight, self.high)
            self.weight_step = torch.nn.Parameter(torch.tensor(start))
            if activation_bits is not None:
                self.input_high = (1 << (activation_bits - 1)) - 1
                self.input_step = torch.nn.Parameter(torch.tensor(0.0))

        def forward(self, x):
            if activation_bits is not None:
                if self.input_step.item() <= 0:
                    self.input_step.data.fill_(initial(x, self.input_high))
                x = Quantize.apply(x, self.input_step, self.input_high)
            weight = Quantize.apply(self.weight, self.weight_step, self.high)
            return torch.nn.functional.linear(x, weight, self.bias)

    return LsqLinear()


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
