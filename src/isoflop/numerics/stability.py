"""What training loses bit by bit: the same run under fewer and fewer mantissa bits.

A one-block transformer is trained with every operand of every matrix product, forward and
backward, cut to a format; `bit_reduction` reports loss, spread over seeds and divergence per
format, and how sharp the loss is at the trained model's logits.

References
----------
Lee et al., To FP8 and Back Again, arXiv 2405.18710: incremental bit reduction by masking the
operands of matrix products, stability judged over seeds and learning rates, and sharpness measured
at the output logits instead of the inputs. Keskar et al., On Large-Batch Training for Deep Learning
(ICLR 2017): the sharpness of a function in a box, in percent. Its box and radius are used here, as
the first paper's were not at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InvalidInput
from .formats import load
from .rounding import round_to

REDUCTIONS = ("e8m7", "e8m6", "e8m5", "e8m4", "e8m3", "e8m2", "e8m1")
"""bfloat16 and what is left of it as mantissa bits go."""

RADIUS = 5e-4
"""Default half-width of the box, as a fraction of one plus a logit's magnitude."""

VOCAB, WIDTH, CONTEXT, BATCH = 16, 32, 8, 32
NORM_EPS = 1e-5
ADAM_1, ADAM_2, ADAM_EPS = 0.9, 0.99, 1e-8
TAIL = 20
"""Steps whose mean is the final loss."""

Weights = dict[str, np.ndarray]


def _log_sum_exp(x: np.ndarray) -> np.ndarray:
    top = x.max(-1, keepdims=True)
    return top[..., 0] + np.log(np.exp(x - top).sum(-1))


def logit_sharpness(logits: np.ndarray, targets: np.ndarray, radius: float = RADIUS) -> np.ndarray:
    """Rise of the cross-entropy in a box around the logits, in percent of one plus the loss.

    100 (max f(z + d) - f(z)) / (1 + f(z)) over |d_j| <= radius (|z_j| + 1). Cross-entropy falls
    with the target's logit and rises with every other, so the maximum is the corner where the
    target is lowest and all others highest; no optimiser is needed.

    Parameters
    ----------
    logits : np.ndarray
        Shape (rows, vocab).
    targets : np.ndarray
        Indices of the true tokens, shape (rows,).
    radius : float
        Positive.

    Returns
    -------
    np.ndarray
        Shape (rows,), float64, never negative.

    Raises
    ------
    InvalidInput
        For shapes that do not match, targets outside the vocabulary or a radius not above 0.
    """
    z, wanted = np.asarray(logits, np.float64), np.asarray(targets)
    if z.ndim != 2 or wanted.shape != z.shape[:1] or wanted.dtype.kind not in "iu":
        raise InvalidInput(
            f"Logits of shape {z.shape} and targets of shape {wanted.shape} ({wanted.dtype}) do "
            "not match; they are (rows, vocab) and integers (rows,)."
        )
    if wanted.size and not (wanted.min() >= 0 and wanted.max() < z.shape[1]):
        raise InvalidInput(f"A target lies outside the vocabulary of {z.shape[1]}.")
    if not radius > 0:
        raise InvalidInput(f"The radius is {radius}; the box needs one above 0.")
    rows = np.arange(len(z))
    step = radius * (np.abs(z) + 1)
    corner = z + step
    corner[rows, wanted] -= 2 * step[rows, wanted]
    flat = _log_sum_exp(z) - z[rows, wanted]
    worst = _log_sum_exp(corner) - corner[rows, wanted]
    return 100 * (worst - flat) / (1 + flat)


class ReducedTransformer:
    """One causal attention head and one ReLU layer, whose products take operands cut to a format.

    Parameters
    ----------
    format : str or None
        Of the operands of every product; None leaves float32 alone.
    rounding : str
        Direction; toward_zero is masking.
    seed : int
        Of the initial weights.
    """

    def __init__(self, format: str | None, rounding: str = "toward_zero", seed: int = 0):
        self.format = None if format is None else load(format)
        self.rounding = rounding
        rng = np.random.default_rng(seed)
        sizes = {
            "embed": (VOCAB, WIDTH), "place": (CONTEXT, WIDTH), "qkv": (WIDTH, 3 * WIDTH),
            "out": (WIDTH, WIDTH), "up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH),
            "head": (WIDTH, VOCAB),
        }  # fmt: skip
        self.weights: Weights = {
            name: (rng.standard_normal(s) * (0.5 if s[1] == WIDTH and s[0] <= VOCAB else
                   s[0] ** -0.5)).astype(np.float32)
            for name, s in sizes.items()
        }  # fmt: skip

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a times b after both are cut."""
        if self.format is not None:
            cut: dict[str, Any] = {"rounding": self.rounding, "overflow": "saturate"}
            a = round_to(np.ascontiguousarray(a), self.format, **cut)
            b = round_to(np.ascontiguousarray(b), self.format, **cut)
        return np.matmul(a, b)

    def forward(self, tokens: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits (batch, context, vocab) of tokens (batch, context), and what `backward` needs."""
        w, t = self.weights, tokens.shape[1]
        x = w["embed"][tokens] + w["place"][:t]
        h, r1 = _norm(x)
        q, k, v = np.split(self.product(h, w["qkv"]), 3, axis=-1)
        scores = self.product(q, k.transpose(0, 2, 1)) * np.float32(WIDTH**-0.5)
        scores = scores + np.triu(np.full((t, t), -1e9, np.float32), 1)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        a = self.product(p, v)
        y = x + self.product(a, w["out"])
        g, r2 = _norm(y)
        u = self.product(g, w["up"])
        z = y + self.product(np.maximum(u, 0), w["down"])
        n, r3 = _norm(z)
        kept = {
            "tokens": tokens, "h": h, "r1": r1, "q": q, "k": k, "v": v, "p": p, "a": a, "g": g,
            "r2": r2, "u": u, "n": n, "r3": r3,
        }  # fmt: skip
        return self.product(n, w["head"]), kept

    def backward(self, slope: np.ndarray, c: dict[str, np.ndarray]) -> Weights:
        """Gradients of the weights from the loss's slope in the logits."""
        w, d = self.weights, {}

        def linear(name: str, x: np.ndarray, s: np.ndarray) -> np.ndarray:
            flat = x.reshape(-1, x.shape[-1])
            d[name] = self.product(flat.T, s.reshape(-1, s.shape[-1]))
            return self.product(s, w[name].T)

        z = _norm_slope(linear("head", c["n"], slope), c["n"], c["r3"])
        u = linear("down", np.maximum(c["u"], 0), z) * (c["u"] > 0)
        y = z + _norm_slope(linear("up", c["g"], u), c["g"], c["r2"])
        a = linear("out", c["a"], y)
        p = self.product(a, c["v"].transpose(0, 2, 1))
        v = self.product(c["p"].transpose(0, 2, 1), a)
        s = c["p"] * (p - (p * c["p"]).sum(-1, keepdims=True)) * np.float32(WIDTH**-0.5)
        q, k = self.product(s, c["k"]), self.product(s.transpose(0, 2, 1), c["q"])
        h = linear("qkv", c["h"], np.concatenate([q, k, v], axis=-1))
        x = y + _norm_slope(h, c["h"], c["r1"])
        d["embed"] = np.zeros_like(w["embed"])
        np.add.at(d["embed"], c["tokens"], x)
        d["place"] = np.zeros_like(w["place"])
        d["place"][: x.shape[1]] = x.sum(0)
        return d

    def loss(self, tokens: np.ndarray, wanted: np.ndarray) -> tuple[float, Weights]:
        """Mean cross-entropy of the tokens that follow (batch, context), and its gradient."""
        logits, kept = self.forward(tokens)
        total = _log_sum_exp(logits)
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


def train(
    format: str | None, *, steps: int, learning_rate: float, seed: int = 0,
    rounding: str = "toward_zero",
) -> tuple[ReducedTransformer, np.ndarray]:  # fmt: skip
    """Train with Adam in float32; losses by step, infinite from where one is not finite."""
    model = ReducedTransformer(format, rounding, seed)
    rng = np.random.default_rng(seed + 1000)
    first = {n: np.zeros_like(x) for n, x in model.weights.items()}
    second = {n: np.zeros_like(x) for n, x in model.weights.items()}
    losses = np.full(steps, np.inf)
    for step in range(1, steps + 1):
        losses[step - 1], slopes = model.loss(*draw(rng))
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


def bit_reduction(
    formats: Sequence[str | None] = REDUCTIONS, *, steps: int = 600, learning_rate: float = 3e-3,
    seeds: Sequence[int] = (0, 1, 2), rounding: str = "toward_zero", radius: float = RADIUS,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train once per format and seed; the stability of each format, in the order given.

    Returns
    -------
    list of dict
        format; loss: mean over seeds of the mean cross-entropy of the last 20 steps, in nats;
        spread: standard deviation of that over seeds; diverged: share of runs that ended no better
        than a uniform guess (ln 16) or not finite; evaluated: loss of the float32-trained weights
        evaluated in the format, without training in it; sharpness_percent: median over sequences
        and seeds of `logit_sharpness` at the last token.

    Raises
    ------
    InvalidInput
        For fewer steps than the 20 the final loss is a mean of, or no seeds.
    """
    if steps < TAIL or not seeds:
        raise InvalidInput(
            f"{steps} steps and {len(seeds)} seeds; at least {TAIL} steps and one seed are needed."
        )
    options: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate}
    exact = [train(None, seed=s, **options)[0] for s in seeds]
    tokens, wanted = draw(np.random.default_rng(7), batch=256)
    records = []
    for name in formats:
        finals, evaluated, sharp = [], [], []
        for seed, reference in zip(seeds, exact):
            model, losses = train(name, seed=seed, rounding=rounding, **options)
            finals.append(float(np.mean(losses[-TAIL:])))
            sharp.append(logit_sharpness(model.forward(tokens)[0][:, -1], wanted[:, -1], radius))
            fewer = ReducedTransformer(name, rounding)
            fewer.weights = reference.weights
            evaluated.append(fewer.loss(tokens, wanted)[0])
        finite = np.isfinite(finals).all()
        records.append({
            "format": name or "fp32", "loss": float(np.mean(finals)),
            "spread": float(np.std(finals)) if finite else np.inf,
            "diverged": float(np.mean([not f < np.log(VOCAB) for f in finals])),
            "evaluated": float(np.mean(evaluated)),
            "sharpness_percent": float(np.median(np.concatenate(sharp))),
        })  # fmt: skip
    return records
