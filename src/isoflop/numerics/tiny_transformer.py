"""A transformer small enough to train in seconds in plain NumPy, its products open to rounding.

One causal attention head and one ReLU layer with residual connections and RMS normalisation. Every
product can take operands cut to a format, or the linear layers can run under a training recipe
(`recipes`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from attrs import frozen

from . import _floatround
from .formats import load
from .recipes import Kept, Recipe
from .rounding import round_to

VOCAB, WIDTH, CONTEXT, BATCH = 16, 32, 8, 32
NORM_EPS = 1e-5
ADAM_1, ADAM_2, ADAM_EPS = 0.9, 0.99, 1e-8
COMPILED_STEPS = 50
"""Runs longer than this load the compiled rounding."""

RECIPE_LAYERS = ("qkv", "out", "up", "down")
"""Layers that run under a recipe; embedding and output head stay in float32, as in the papers."""

Weights = dict[str, np.ndarray]


@frozen
class Sizes:
    """Of a model: words, width of a token, longest sequence."""

    vocab: int = VOCAB
    width: int = WIDTH
    context: int = CONTEXT


def log_sum_exp(x: np.ndarray) -> np.ndarray:
    """log sum exp over the last axis."""
    top = x.max(-1, keepdims=True)
    return top[..., 0] + np.log(np.exp(x - top).sum(-1))


class TinyTransformer:
    """One causal attention head and one ReLU layer, whose products take operands cut to a format.

    Parameters
    ----------
    format : str or None
        Of the operands of every product; None leaves float32 alone.
    rounding : str
        Direction; toward_zero is masking.
    seed : int
        Of the initial weights.
    recipe : Recipe, optional
        Of the linear layers' products, forward and backward.
    sizes : Sizes
        Of the model.

    Attributes
    ----------
    last : dict
        What the last backward pass of a recipe had of each layer: kept operands and slope.
    """

    def __init__(
        self, format: str | None, rounding: str = "toward_zero", seed: int = 0,
        recipe: Recipe | None = None, sizes: Sizes = Sizes(),
    ):  # fmt: skip
        self.format = None if format is None else load(format)
        self.rounding, self.recipe = rounding, recipe
        self.draws = 0
        self.last: dict[str, tuple[Kept, np.ndarray]] = {}
        rng = np.random.default_rng(seed)
        self.sizes = sizes
        width = sizes.width
        shapes = {
            "embed": (sizes.vocab, width), "place": (sizes.context, width),
            "qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width),
            "down": (4 * width, width), "head": (width, sizes.vocab),
        }  # fmt: skip
        self.weights: Weights = {
            name: (rng.standard_normal(s) * (0.5 if name in ("embed", "place") else
                   s[0] ** -0.5)).astype(np.float32)
            for name, s in shapes.items()
        }  # fmt: skip

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a times b after both are cut."""
        if self.format is not None:
            cut: dict[str, Any] = {"rounding": self.rounding, "overflow": "saturate"}
            a = round_to(np.ascontiguousarray(a), self.format, **cut)
            b = round_to(np.ascontiguousarray(b), self.format, **cut)
        return np.matmul(a, b)

    def _linear(self, name: str, x: np.ndarray, kept: dict[str, Any]) -> np.ndarray:
        if self.recipe is None or name not in RECIPE_LAYERS:
            return self.product(x, self.weights[name])
        flat = x.reshape(-1, x.shape[-1])
        y, kept[f"recipe {name}"] = self.recipe.forward(flat, self.weights[name].T)
        return y.reshape(*x.shape[:-1], -1)

    def _linear_slopes(
        self, name: str, x: np.ndarray, slope: np.ndarray, kept: dict[str, Any], d: Weights
    ) -> np.ndarray:
        """Slope in the layer's inputs; that in its weights goes to `d`."""
        flat = slope.reshape(-1, slope.shape[-1])
        if self.recipe is None or name not in RECIPE_LAYERS:
            d[name] = self.product(x.reshape(-1, x.shape[-1]).T, flat)
            return self.product(slope, self.weights[name].T)
        self.draws += 1
        self.last[name] = kept[f"recipe {name}"], flat
        to_x, to_weight = self.recipe.backward(*self.last[name], self.draws)
        d[name] = to_weight.T
        return to_x.reshape(x.shape)

    def forward(
        self, tokens: np.ndarray, places: np.ndarray | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Logits (batch, context, vocab) of tokens (batch, context), and what `backward` needs.

        `places` are the tokens' positions, (batch, context), where they do not follow each other;
        `backward` takes them as 0, 1, 2, ...
        """
        w, t = self.weights, tokens.shape[1]
        x = w["embed"][tokens] + w["place"][np.arange(t) if places is None else places]
        h, r1 = _norm(x)
        c: dict[str, Any] = {"tokens": tokens, "h": h, "r1": r1}
        q, k, v = np.split(self._linear("qkv", h, c), 3, axis=-1)
        scores = self.product(q, k.transpose(0, 2, 1)) * np.float32(self.sizes.width**-0.5)
        scores = scores + np.triu(np.full((t, t), -1e9, np.float32), 1)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        a = self.product(p, v)
        y = x + self._linear("out", a, c)
        g, r2 = _norm(y)
        u = self._linear("up", g, c)
        z = y + self._linear("down", np.maximum(u, 0), c)
        n, r3 = _norm(z)
        c |= {
            "q": q, "k": k, "v": v, "p": p, "a": a, "g": g, "r2": r2, "u": u, "n": n, "r3": r3,
        }  # fmt: skip
        return self.product(n, w["head"]), c

    def backward(self, slope: np.ndarray, c: dict[str, Any]) -> Weights:
        """Gradients of the weights from the loss's slope in the logits."""
        d: Weights = {}

        def linear(name: str, x: np.ndarray, s: np.ndarray) -> np.ndarray:
            return self._linear_slopes(name, x, s, c, d)

        z = _norm_slope(linear("head", c["n"], slope), c["n"], c["r3"])
        u = linear("down", np.maximum(c["u"], 0), z) * (c["u"] > 0)
        y = z + _norm_slope(linear("up", c["g"], u), c["g"], c["r2"])
        a = linear("out", c["a"], y)
        p = self.product(a, c["v"].transpose(0, 2, 1))
        v = self.product(c["p"].transpose(0, 2, 1), a)
        s = c["p"] * (p - (p * c["p"]).sum(-1, keepdims=True)) * np.float32(self.sizes.width**-0.5)
        q, k = self.product(s, c["k"]), self.product(s.transpose(0, 2, 1), c["q"])
        h = linear("qkv", c["h"], np.concatenate([q, k, v], axis=-1))
        x = y + _norm_slope(h, c["h"], c["r1"])
        d["embed"] = np.zeros_like(self.weights["embed"])
        np.add.at(d["embed"], c["tokens"], x)
        d["place"] = np.zeros_like(self.weights["place"])
        d["place"][: x.shape[1]] = x.sum(0)
        return d

    def loss(self, tokens: np.ndarray, wanted: np.ndarray) -> tuple[float, Weights]:
        """Mean cross-entropy of the tokens that follow (batch, context), and its gradient."""
        logits, kept = self.forward(tokens)
        total = log_sum_exp(logits)
        truth = np.take_along_axis(logits, wanted[..., None], -1)
        slope = np.exp(logits - total[..., None])
        np.put_along_axis(
            slope, wanted[..., None], np.take_along_axis(slope, wanted[..., None], -1) - 1, -1
        )
        return float(np.mean(total - truth[..., 0])), self.backward(slope / wanted.size, kept)


def _norm(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = 1 / np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(NORM_EPS))
    return x * scale, scale


def _norm_slope(slope: np.ndarray, normed: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return scale * (slope - normed * np.mean(slope * normed, -1, keepdims=True))


def draw(rng: np.random.Generator, batch: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens, and what to say of each: itself plus the one before it, modulo the vocabulary
    (itself at the start)."""
    tokens = rng.integers(0, VOCAB, (batch, CONTEXT))
    before = np.concatenate([np.zeros((batch, 1), tokens.dtype), tokens[:, :-1]], axis=1)
    return tokens, (tokens + before) % VOCAB


Lesson = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def train(
    format: str | None, *, steps: int, learning_rate: float, seed: int = 0,
    rounding: str = "toward_zero", recipe: Recipe | None = None, finish: float = 0.0,
    sizes: Sizes = Sizes(), lesson: Lesson = draw,
) -> tuple[TinyTransformer, np.ndarray]:  # fmt: skip
    """Train with Adam in float32; losses by step, infinite from where one is not finite.

    Parameters
    ----------
    finish : float
        Share of the steps, the last ones, in which the recipe's backward products are exact.
    lesson : callable
        Draws a batch: tokens, and what to say of each.
    """
    if steps > COMPILED_STEPS:
        _floatround.kernels()  # loaded once, they serve small arrays too
    model = TinyTransformer(format, rounding, seed, recipe, sizes)
    rng = np.random.default_rng(seed + 1000)
    first = {n: np.zeros_like(x) for n, x in model.weights.items()}
    second = {n: np.zeros_like(x) for n, x in model.weights.items()}
    losses = np.full(steps, np.inf)
    for step in range(1, steps + 1):
        if recipe is not None and step > steps * (1 - finish):
            model.recipe = recipe.finishing()
        losses[step - 1], slopes = model.loss(*lesson(rng))
        if not np.isfinite(losses[step - 1]):
            losses[step - 1 :] = np.inf
            break
        rate = learning_rate * np.sqrt(1 - ADAM_2**step) / (1 - ADAM_1**step)
        for name, slope in slopes.items():
            first[name] = ADAM_1 * first[name] + (1 - ADAM_1) * slope
            second[name] = ADAM_2 * second[name] + (1 - ADAM_2) * slope * slope
            change = rate * first[name] / (np.sqrt(second[name]) + ADAM_EPS)
            model.weights[name] = (model.weights[name] - change).astype(np.float32)
    return model, losses
