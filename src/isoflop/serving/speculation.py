"""Speculative decoding: a cheap draft proposes tokens, one pass of the model checks them."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ..cost.features import Array
from ..cost.step import StepModel
from ..errors import InvalidInput


@frozen(kw_only=True, eq=False)
class Speculation:
    """A draft, its length and how often it is right.

    Attributes
    ----------
    draft : int
        Tokens proposed along one path.
    acceptance : float
        Chance, 0 to 1, that a proposed token is accepted given all before it were.
    branches : int
        Candidates per position of a tree; 1 is a chain. A position is accepted if any is.
    model : StepModel or None
        The draft model; None: drafting costs nothing (n-gram lookup).

    References
    ----------
    Leviathan et al. 2023, Fast Inference from Transformers via Speculative Decoding,
    arXiv 2211.17192, equation 1. Trees: Miao et al. 2023, SpecInfer, arXiv 2305.09781.
    """

    draft: int
    acceptance: float
    branches: int = 1
    model: StepModel | None = None

    def __attrs_post_init__(self) -> None:
        if self.draft < 1 or self.branches < 1:
            raise InvalidInput("A draft has at least one token and one branch.")
        if not 0.0 <= self.acceptance <= 1.0:
            raise InvalidInput(f"An acceptance rate lies between 0 and 1, not {self.acceptance}.")

    @property
    def rate(self) -> float:
        """Chance that some branch of a position is accepted, branches taken as independent."""
        return 1.0 - (1.0 - self.acceptance) ** self.branches

    @property
    def tokens_per_step(self) -> float:
        """Expected tokens gained per pass: (1 - a^(d+1)) / (1 - a), equation 1."""
        a, d = self.rate, self.draft
        return d + 1.0 if a >= 1.0 else (1.0 - a ** (d + 1)) / (1.0 - a)

    @property
    def verified(self) -> int:
        """Tokens of one sequence in a verifying pass."""
        return self.draft * self.branches + 1

    def draft_s(self, max_sequences: int, longest: int) -> Array:
        """Seconds of drafting by number of sequences, shape (max_sequences + 1,).

        `longest` is the longest sequence in tokens; drafts attend to a quarter of it on average.
        """
        b = np.arange(max_sequences + 1, dtype=float)
        if self.model is None:
            return np.zeros(len(b))
        mean = min(longest, self.model.model.max_context) / 4.0
        seconds = self.draft * np.asarray(self.model.decode_s(np.maximum(b, 1.0), np.array(mean)))
        seconds[0] = 0.0
        return seconds
