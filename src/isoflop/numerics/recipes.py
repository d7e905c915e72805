"""Low-precision training recipes: what the three products of a linear layer see, forward and back.

A recipe works on NumPy matrices; `recipe_linear` makes a PyTorch layer of one and
`tiny_transformer` trains with one in plain NumPy.

References
----------
Castro et al., Quartet, arXiv 2505.14669, algorithm 1; Chmiel et al., FP4 All the Way, arXiv
2505.19115 (rounding to nearest forward, stochastic backward, a last stretch with an exact backward
pass).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from attrs import evolve, frozen

from ..errors import InvalidInput
from .formats import BlockFormat, load
from .rounding import round_to
from .training import BACKWARD_HEADROOM, GROUP, quartet_backward, quartet_forward, rotate

RECIPES_SHOWN = ("fp32", "e8m7", "e8m5", "e8m3", "e8m1", "nvfp4", "mxfp4", "quartet")
"""What `isoflop formats train` compares unless told."""

Kept = tuple[np.ndarray, ...]


class Recipe(Protocol):
    """The products of a linear layer y = x w^T, x (rows, in), w (out, in), float32."""

    def forward(self, x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, Kept]:
        """y (rows, out), and what `backward` needs."""
        ...

    def backward(self, kept: Kept, slope: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Slopes of the loss in x and w from that in y (rows, out); `seed` differs by call."""
        ...

    def finishing(self) -> Recipe:
        """The recipe with exact backward products of the operands that the forward pass used."""
        ...


def _blocks(x: np.ndarray, size: int) -> np.ndarray:
    """`x` with zeros appended along the last axis until `size` divides it."""
    return np.ascontiguousarray(np.pad(x, ((0, 0), (0, -x.shape[-1] % size))))


@frozen(kw_only=True)
class BlockRecipe:
    """Every operand rounded in blocks along the axis its product sums over.

    Attributes
    ----------
    format : BlockFormat
    backward_rounding : {"stochastic", "nearest_even", "exact"}
        Of gradients and the operands they meet; "exact" multiplies the gradient as it is by the
        operands of the forward pass.
    """

    format: Any
    backward_rounding: str = "stochastic"

    def _rounded(self, x: np.ndarray, rounding: str, seed: int = 0) -> np.ndarray:
        size = getattr(self.format, "block", 1) or 1
        padded = _blocks(x.astype(np.float32), size)
        return round_to(padded, self.format, rounding=rounding, seed=seed)[:, : x.shape[-1]]

    def forward(self, x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, Kept]:
        """See `Recipe`."""
        x_q, w_q = self._rounded(x, "nearest_even"), self._rounded(w, "nearest_even")
        exact = self.backward_rounding == "exact"
        return x_q @ w_q.T, (x_q, w_q) if exact else (x, w)

    def backward(self, kept: Kept, slope: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Recipe`."""
        x, w = kept
        if self.backward_rounding == "exact":
            return slope @ w, slope.T @ x
        parts = [
            self._rounded(operand, self.backward_rounding, 4 * seed + i)
            for i, operand in enumerate((slope, w.T, slope.T, x.T))
        ]
        return parts[0] @ parts[1].T, parts[2] @ parts[3].T

    def finishing(self) -> BlockRecipe:
        """See `Recipe`."""
        return evolve(self, backward_rounding="exact")


@frozen(kw_only=True)
class Quartet:
    """MXFP4 with Hadamard-rotated groups of 32.

    Forward: operands rotated, scaled by their spread, rounded to nearest, values beyond the range
    clipped and their gradients masked. Backward: operands rotated under random signs, 3/4 of them
    rounded stochastically, products multiplied by 16/9, masked and rotated back. Both products are
    unbiased for the gradient of what the forward pass computed.

    Attributes
    ----------
    exact_backward : bool
        Multiply without rounding in the backward pass.
    """

    exact_backward: bool = False

    def forward(self, x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, Kept]:
        """See `Recipe`. The inputs' count must be a multiple of 32."""
        if x.shape[-1] % GROUP:
            raise InvalidInput(
                f"Quartet rotates groups of {GROUP} inputs; a layer of {x.shape[-1]} does not "
                "divide into them."
            )
        x_q, x_mask = quartet_forward(rotate(x))
        w_q, w_mask = quartet_forward(rotate(w))
        return x_q @ w_q.T, (x_q, x_mask, w_q, w_mask)

    def backward(self, kept: Kept, slope: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Recipe`."""
        x_q, x_mask, w_q, w_mask = kept
        slope = slope.astype(np.float32)
        to_x = self._product(slope, w_q.T, 2 * seed)
        to_w = self._product(slope.T, x_q.T, 2 * seed + 1)
        return rotate(to_x * x_mask), rotate(to_w * w_mask)

    def _product(self, a: np.ndarray, b: np.ndarray, seed: int) -> np.ndarray:
        """An unbiased a b^T; both are (rows, summed)."""
        if self.exact_backward:
            return a @ b.T
        signs = np.where(np.random.default_rng(seed).random(GROUP) < 0.5, -1, 1).astype(np.float32)
        left, right = (
            quartet_backward(rotate(_blocks(operand, GROUP), signs), 2 * seed + i)
            for i, operand in enumerate((a, b))
        )
        return (left @ right.T) / np.float32(BACKWARD_HEADROOM**2)

    def finishing(self) -> Quartet:
        """See `Recipe`."""
        return evolve(self, exact_backward=True)


def find(name: str) -> Recipe | None:
    """The recipe of a name: quartet, or any block format; None for a scalar format."""
    if name == "quartet":
        return Quartet()
    fmt = load(name)
    return BlockRecipe(format=fmt) if isinstance(fmt, BlockFormat) else None


def weight_noise_ratio(recipe: Recipe, batches: Sequence[tuple[Kept, np.ndarray]]) -> float:
    """Root mean square of a layer's mean weight gradient over that of one step's rounding noise.

    Falls as training converges: the mean gradient shrinks, the rounding of the gradients it is a
    mean of does not. Below `training.NOISE_RATIO` = sqrt(3) the backward pass should give way to
    higher precision. Infinite for a recipe whose backward products are exact.

    Parameters
    ----------
    batches
        What `forward` kept and the slope in y, several batches at the same weights.
    """
    exact = recipe.finishing()
    gradients = [exact.backward(kept, slope, 0)[1].astype(np.float64) for kept, slope in batches]
    noise = [
        recipe.backward(kept, slope, seed)[1] - gradient
        for seed, ((kept, slope), gradient) in enumerate(zip(batches, gradients))
    ]
    of_one = float(np.sqrt(np.mean(np.square(noise))))
    mean = np.mean(gradients, axis=0)
    return float(np.sqrt(np.mean(mean**2))) / of_one if of_one else np.inf


def recipe_linear(inputs: int, outputs: int, recipe: Recipe, bias: bool = True):
    """A `torch.nn.Linear` on the CPU whose three products follow a recipe."""
    import torch

    counter = {"seed": 0}

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(context, x, weight):
            y, context.kept = recipe.forward(x.detach().numpy(), weight.detach().numpy())
            return torch.from_numpy(np.ascontiguousarray(y))

        @staticmethod
        def backward(context, gradient):
            counter["seed"] += 1
            slopes = recipe.backward(context.kept, gradient.numpy(), counter["seed"])
            return tuple(torch.from_numpy(np.ascontiguousarray(s)) for s in slopes)

    class RecipeLinear(torch.nn.Linear):
        def forward(self, x):
            flat = x.reshape(-1, x.shape[-1])
            y = Product.apply(flat, self.weight).reshape(*x.shape[:-1], -1)
            return y if self.bias is None else y + self.bias

    return RecipeLinear(inputs, outputs, bias=bias)


def four_bit_linear(inputs: int, outputs: int, format: str = "nvfp4", backward: str = "stochastic"):
    """`recipe_linear` with every operand in a block format (see `BlockRecipe`)."""
    return recipe_linear(
        inputs, outputs, BlockRecipe(format=load(format), backward_rounding=backward)
    )
