"""Which prompt tokens a small model keeps for a large one, and a task small enough to try it.

The task is recall: a prompt holds facts (a key and its value in one word) among words that mean
nothing, and ends with one key; the answer is its value. Two transformers of different widths learn
it, the smaller one chooses tokens, the larger one answers from those.
"""

from __future__ import annotations

import numpy as np

from ..cost.features import Array
from ..errors import InvalidInput
from ..numerics.tiny_transformer import Sizes, TinyTransformer, train

KEYS, VALUES, BLANKS = 12, 4, 4
FACTS = 48
"""Words of a prompt before the question; a quarter of them are facts."""
ASKED = 8
FIRST_QUESTION = KEYS * VALUES
FIRST_BLANK = FIRST_QUESTION + KEYS
VOCAB = FIRST_BLANK + BLANKS
BATCH = 16


def keep_tokens(attention: Array, keep: float, *, pool: int = 1, chunk: int = 1) -> Array:
    """Indices of the prompt tokens to keep, in order; the last one is always among them.

    Every row of attention is smoothed over `pool` neighbouring tokens (those that there are, at
    the ends), a token counts as the largest of all layers and heads, meaned over the steps; a
    chunk of `chunk` tokens as the mean of its tokens. The best ceil(keep x chunks) chunks stay.

    Parameters
    ----------
    attention : array (layers, heads, steps, prompt)
        Attention of the draft's look-ahead steps to every prompt token.
    keep : float
        Share kept, in (0, 1].

    Raises
    ------
    InvalidInput
        If the share, the window or the chunk is none.

    References
    ----------
    Liu et al. 2025, Speculative Prefill, arXiv 2502.02789, algorithm 1.
    """
    if not 0.0 < keep <= 1.0:
        raise InvalidInput(f"The share of tokens kept lies in (0, 1], not {keep}.")
    if pool < 1 or pool % 2 == 0 or chunk < 1:
        raise InvalidInput(
            f"A window of {pool} and chunks of {chunk} tokens: the window must be odd, both at "
            "least 1."
        )
    n = attention.shape[-1]
    window, ones = np.ones(pool), np.convolve(np.ones(n), np.ones(pool))[pool // 2 :][:n]
    rows = np.reshape(attention, (-1, n))
    smooth = np.stack([np.convolve(r, window)[pool // 2 :][:n] / ones for r in rows])
    score = smooth.reshape(attention.shape).max(axis=(0, 1)).mean(axis=0)
    starts = np.arange(0, n, chunk)
    sizes = np.diff([*starts, n])
    means = np.add.reduceat(score, starts) / sizes
    # A tie goes to the earlier chunk.
    best = np.argsort(-means, kind="stable")[: int(np.ceil(keep * len(starts)))]
    kept = np.isin(np.repeat(np.arange(len(starts)), sizes), best)
    kept[-1] = True
    return np.nonzero(kept)[0]


def draw_prompts(rng: np.random.Generator, count: int = BATCH) -> tuple[Array, Array]:
    """Prompts with `ASKED` questions each, (count, FACTS + ASKED), and what to say at each word."""
    tokens = FIRST_BLANK + rng.integers(0, BLANKS, (count, FACTS + ASKED))
    wanted = np.zeros_like(tokens)
    each = np.arange(count)[:, None]
    values = rng.integers(0, VALUES, (count, KEYS))
    places = rng.permuted(np.tile(np.arange(FACTS), (count, 1)), axis=1)[:, :KEYS]
    tokens[each, places] = np.arange(KEYS) * VALUES + values
    wanted[each, places] = values
    asked = rng.integers(0, KEYS, (count, ASKED))
    tokens[:, FACTS:] = FIRST_QUESTION + asked
    wanted[:, FACTS:] = values[each, asked]
    return tokens, wanted


def learner(width: int, *, steps: int = 600, learning_rate: float = 0.005,
            seed: int = 0) -> TinyTransformer:  # fmt: skip
    """A transformer of that width after so many steps of training on the task."""
    sizes = Sizes(vocab=VOCAB, width=width, context=FACTS + ASKED)
    return train(None, steps=steps, learning_rate=learning_rate, seed=seed, sizes=sizes,
                 lesson=draw_prompts)[0]  # fmt: skip


def look_ahead(model: TinyTransformer, prompt: Array, steps: int) -> Array:
    """Attention (1, 1, steps, prompt) of the last prompt token and those decoded after it.

    Raises
    ------
    InvalidInput
        If the model cannot decode so far.
    """
    if not 1 <= steps <= model.sizes.context - len(prompt) + 1:
        raise InvalidInput(
            f"{steps} look-ahead steps; a prompt of {len(prompt)} words leaves the draft 1 to "
            f"{model.sizes.context - len(prompt) + 1}."
        )
    words, rows = np.asarray(prompt), []
    for _ in range(steps):
        logits, kept = model.forward(words[None])
        rows.append(kept["p"][0, -1, : len(prompt)])
        words = np.append(words, logits[0, -1].argmax())
    return np.stack(rows)[None, None]


def answer(model: TinyTransformer, prompt: Array, kept: Array) -> int:
    """What the model says after the kept tokens, each at its place in the whole prompt."""
    logits, _ = model.forward(prompt[kept][None], kept[None])
    return int(logits[0, -1].argmax())
