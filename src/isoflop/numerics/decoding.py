"""Greedy decoding that differs only in precision and in the order of sums, and where it parts.

A batch size changes how kernels split their sums. In exact arithmetic nothing would change; in
floating point the last bits do, a token whose two best logits are close flips, and the rest of the
sequence follows another path. A small transformer with fixed random weights is decoded under
several splits per precision; what is kept between operations, and what products accumulate in, is
emulated exactly.

References
----------
Yuan et al. 2025, Give Me FP32 or Give Me Death?, arXiv 2506.09501: divergence by precision, and
LayerCast (16-bit storage of weights, 32-bit computation).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen

from ..errors import InvalidInput
from .rounding import round_to

PRECISIONS = ("bf16", "fp16", "layercast", "fp32")
SPLITS = (1, 2, 4, 8)
"""Pieces a product's sum is cut into; kernels choose by batch and shape."""


@frozen(kw_only=True)
class Shape:
    """Size of the model that is decoded."""

    width: int = 64
    heads: int = 4
    layers: int = 2
    vocab: int = 8192
    context: int = 96


@frozen(kw_only=True)
class Arithmetic:
    """How one run computes: what is stored between operations, and pieces of every sum."""

    precision: str
    splits: int

    def keep(self, x: np.ndarray) -> np.ndarray:
        """A result as it is stored before the next operation reads it."""
        if self.precision == "bf16":
            return np.asarray(round_to(x, "bfloat16"), np.float32)
        if self.precision == "fp16":
            return x.astype(np.float16).astype(np.float32)
        return x

    def weight(self, x: np.ndarray) -> np.ndarray:
        """A weight as it is stored; rounded once."""
        return _stored(self.precision, x)

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a times b, the sum over the inner dimension in pieces that are added in order.

        Pieces are written as results are stored before they are added, as split-K kernels with a
        reduction in the output type do; within a piece sums are float32.
        """
        edges = np.linspace(0, a.shape[-1], self.splits + 1).astype(int)
        total: np.ndarray | None = None
        for low, high in itertools.pairwise(edges.tolist()):
            part = np.matmul(a[..., low:high], b[..., low:high, :]).astype(np.float32)
            part = self.keep(part)
            total = part if total is None else total + part
        assert total is not None
        return self.keep(total)


_WEIGHTS: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}


def _stored(precision: str, x: np.ndarray) -> np.ndarray:
    key = (precision, id(x))
    if key not in _WEIGHTS or _WEIGHTS[key][0] is not x:
        kept = x
        if precision in ("bf16", "layercast"):
            kept = np.asarray(round_to(x, "bfloat16"), np.float32)
        elif precision == "fp16":
            kept = x.astype(np.float16).astype(np.float32)
        _WEIGHTS[key] = (x, kept)
    return _WEIGHTS[key][1]


class Model:
    """A decoder with fixed random weights in float32."""

    def __init__(self, shape: Shape, seed: int = 0):
        if shape.width % shape.heads:
            raise InvalidInput(f"{shape.heads} heads do not divide a width of {shape.width}.")
        rng = np.random.default_rng(seed)
        w, self.shape = shape.width, shape

        def draw(*size: int) -> np.ndarray:
            return (rng.standard_normal(size) * size[0] ** -0.5).astype(np.float32)

        self.embedding = rng.standard_normal((shape.vocab, w)).astype(np.float32)
        self.positions = 0.3 * rng.standard_normal((shape.context, w)).astype(np.float32)
        self.layers = [
            {"qkv": draw(w, 3 * w), "out": draw(w, w), "up": draw(w, 4 * w), "down": draw(4 * w, w)}
            for _ in range(shape.layers)
        ]
        self.head = draw(w, shape.vocab)

    def logits(self, tokens: np.ndarray, how: Arithmetic) -> np.ndarray:
        """Logits of the next token of every sequence (sequences, vocab)."""
        s = self.shape
        x = how.keep(
            how.weight(self.embedding)[tokens] + how.weight(self.positions)[: tokens.shape[1]]
        )
        mask = np.triu(np.full((tokens.shape[1],) * 2, -np.inf, np.float32), 1)
        for layer in self.layers:
            h = how.product(_norm(x, how), how.weight(layer["qkv"]))
            q, k, v = (
                part.reshape(*part.shape[:2], s.heads, -1).transpose(0, 2, 1, 3)
                for part in np.split(h, 3, axis=-1)
            )
            scores = how.product(q, k.transpose(0, 1, 3, 2)) * np.float32(q.shape[-1] ** -0.5)
            mixed = how.product(_softmax(scores + mask, how), v)
            mixed = mixed.transpose(0, 2, 1, 3).reshape(x.shape)
            x = how.keep(x + how.product(mixed, how.weight(layer["out"])))
            up = how.product(_norm(x, how), how.weight(layer["up"]))
            x = how.keep(x + how.product(how.keep(np.maximum(up, 0)), how.weight(layer["down"])))
        last = _norm(x[:, -1:], how)
        return how.product(last[:, 0], how.weight(self.head))

    def greedy(self, prompts: np.ndarray, steps: int, how: Arithmetic) -> np.ndarray:
        """The prompts and `steps` greedy tokens after them."""
        tokens = prompts
        if prompts.shape[1] + steps > self.shape.context:
            raise InvalidInput(
                f"{prompts.shape[1]} prompt tokens and {steps} more exceed the context of "
                f"{self.shape.context}."
            )
        for _ in range(steps):
            best = np.argmax(self.logits(tokens, how), axis=-1)
            tokens = np.concatenate([tokens, best[:, None]], axis=1)
        return tokens


def _norm(x: np.ndarray, how: Arithmetic) -> np.ndarray:
    scale = 1.0 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(1e-6))
    return how.keep((x * scale).astype(np.float32))


def _softmax(x: np.ndarray, how: Arithmetic) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return how.keep((e / e.sum(axis=-1, keepdims=True)).astype(np.float32))


def divergence(
    precisions: Sequence[str] = PRECISIONS, *, sequences: int = 32, prompt: int = 8,
    steps: int = 48, shape: Shape | None = None, seed: int = 0,
) -> list[dict[str, Any]]:  # fmt: skip
    """By precision: sequences that differ between splits, and the first token at which they do.

    `first_token` is the mean over sequences that part; None where none does. `memory` is bytes per
    weight.

    Raises
    ------
    InvalidInput
        For an unknown precision.
    """
    shape = shape or Shape(context=prompt + steps)
    unknown = [p for p in precisions if p not in PRECISIONS]
    if unknown:
        raise InvalidInput(f"'{unknown[0]}' is none of {', '.join(PRECISIONS)}.")
    model = Model(shape, seed)
    prompts = np.random.default_rng(seed + 1).integers(0, shape.vocab, (sequences, prompt))
    records = []
    for precision in precisions:
        runs = np.stack([
            model.greedy(prompts, steps, Arithmetic(precision=precision, splits=s)) for s in SPLITS
        ])  # fmt: skip
        differs = (runs != runs[:1]).any(axis=0)[:, prompt:]
        parted = differs.any(axis=1)
        first = np.argmax(differs, axis=1)[parted]
        _WEIGHTS.clear()
        records.append({
            "precision": precision, "weight_bytes": 4 if precision == "fp32" else 2,
            "diverged": float(parted.mean()),
            "first_token": float(first.mean()) if len(first) else None,
        })  # fmt: skip
    return records
