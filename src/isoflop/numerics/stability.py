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

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import InvalidInput
from . import recipes
from .tiny_transformer import VOCAB, TinyTransformer, draw, log_sum_exp, train

REDUCTIONS = ("e8m7", "e8m6", "e8m5", "e8m4", "e8m3", "e8m2", "e8m1")
"""bfloat16 and what is left of it as mantissa bits go."""

RADIUS = 5e-4
"""Default half-width of the box, as a fraction of one plus a logit's magnitude."""

TAIL = 20
"""Steps whose mean is the final loss."""

NOISE_BATCHES = 16
"""Batches whose mean gradient is compared with the rounding noise of one."""


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
    flat = log_sum_exp(z) - z[rows, wanted]
    worst = log_sum_exp(corner) - corner[rows, wanted]
    return 100 * (worst - flat) / (1 + flat)


def bit_reduction(
    formats: Sequence[str | None] = REDUCTIONS, *, steps: int = 600, learning_rate: float = 3e-3,
    seeds: Sequence[int] = (0, 1, 2), rounding: str = "toward_zero", radius: float = RADIUS,
    finish: float = 0.0, progress: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train once per format and seed; the stability of each format, in the order given.

    Parameters
    ----------
    formats : sequence of str or None
        A scalar format cuts the operands of every product; a block format or "quartet" names a
        recipe of the linear layers (see `recipes`); None is float32.
    finish : float
        Share of the steps, the last ones, in which a recipe's backward products are exact, 0 to 1.

    Returns
    -------
    list of dict
        format; loss: mean over seeds of the mean cross-entropy of the last 20 steps, in nats;
        spread: standard deviation of that over seeds; diverged: share of runs that ended no better
        than a uniform guess (ln 16) or not finite; evaluated: loss of the float32-trained weights
        evaluated in the format, without training in it; sharpness_percent: median over sequences
        and seeds of `logit_sharpness` at the last token; noise_ratio: least over layers, mean over
        seeds, of the trained model's `recipes.weight_noise_ratio` (None without a recipe): below
        sqrt(3) the recipe's gradients no longer help.

    Raises
    ------
    InvalidInput
        For fewer steps than the 20 the final loss is a mean of, no seeds, or another share.
    """
    if steps < TAIL or not seeds:
        raise InvalidInput(
            f"{steps} steps and {len(seeds)} seeds; at least {TAIL} steps and one seed are needed."
        )
    if not 0 <= finish <= 1:
        raise InvalidInput(f"The share of exact backward steps is {finish}; it is 0 to 1.")
    options: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate}
    exact = [train(None, seed=s, **options)[0] for s in seeds]
    records = []
    for i, name in enumerate(formats):
        records.append(
            _stability(name, exact, seeds, rounding, radius, options | {"finish": finish})
        )
        if progress is not None:
            progress((i + 1) / len(formats))
    return records


def _stability(
    name: str | None, exact: Sequence[TinyTransformer], seeds: Sequence[int], rounding: str,
    radius: float, options: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The record of one format; `exact` are the float32-trained models of the seeds."""
    recipe = recipes.find(name) if name else None
    cut = None if recipe else name
    tokens, wanted = draw(np.random.default_rng(7), batch=256)
    finals, evaluated, sharp, ratios = [], [], [], []
    for seed, reference in zip(seeds, exact):
        model, losses = train(cut, seed=seed, rounding=rounding, recipe=recipe, **options)
        finals.append(float(np.mean(losses[-TAIL:])))
        sharp.append(logit_sharpness(model.forward(tokens)[0][:, -1], wanted[:, -1], radius))
        if recipe is not None:
            ratios.append(_noise_ratio(model, recipe, seed))
        fewer = TinyTransformer(cut, rounding, recipe=recipe)
        fewer.weights = reference.weights
        evaluated.append(fewer.loss(tokens, wanted)[0])
    finite = np.isfinite(finals).all()
    return {
        "format": name or "fp32", "loss": float(np.mean(finals)),
        "spread": float(np.std(finals)) if finite else np.inf,
        "diverged": float(np.mean([not f < np.log(VOCAB) for f in finals])),
        "evaluated": float(np.mean(evaluated)),
        "sharpness_percent": float(np.median(np.concatenate(sharp))),
        "noise_ratio": float(np.mean(ratios)) if ratios else None,
    }  # fmt: skip


def _noise_ratio(model: TinyTransformer, recipe: recipes.Recipe, seed: int) -> float:
    """Least `recipes.weight_noise_ratio` of the model's layers."""
    rng, batches = np.random.default_rng(seed + 2000), []
    model.recipe = recipe
    for _ in range(NOISE_BATCHES):
        model.loss(*draw(rng))
        batches.append(dict(model.last))
    return min(
        recipes.weight_noise_ratio(recipe, [batch[name] for batch in batches])
        for name in batches[0]
    )
