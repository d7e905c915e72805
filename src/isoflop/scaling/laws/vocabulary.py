"""Unigram-normalised loss from vocabulary size."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np

from ..law import Array, Data, Law, Parameter


def tokens_per_character(vocab: Any) -> Any:
    """The authors' quadratic of ln V."""
    log = np.log(vocab)
    return 0.00639222 * log**2 - 0.15811069 * log + 1.20470122


@final
class Vocabulary(Law):
    """L_u = -E + A_1 / N_nv^a_1 + A_2 / N_v^a_2 + B / (H f)^b.

    N_nv non-vocabulary parameters, N_v vocabulary parameters, H training characters. f turns
    characters into data as the authors' code does for the fit: their quadratic of ln V, tokens per
    character, at the vocabulary V counted in thousands. Their constants belong to this f: with
    f = 1 the same constants are twice as far from their runs.

    References
    ----------
    Tao et al. 2024, Scaling Laws with Vocabulary, arXiv 2407.13623, equation 6, and the code
    published with it (approach 3).
    """

    name: ClassVar[str] = "vocabulary"
    title: ClassVar[str] = "unigram-normalised loss from vocabulary size"
    reference: ClassVar[str] = "Tao et al. 2024, arXiv 2407.13623, equation 6"
    inputs: ClassVar[tuple[str, ...]] = ("params", "vocab_params", "vocab", "characters")
    signed: ClassVar[tuple[str, ...]] = ("loss",)
    log_residual: ClassVar[bool] = False
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="E", low=-20.0, high=20.0, meaning="offset"),
        Parameter(name="A_1", low=1e-9, high=1e12, log=True, meaning="size scale"),
        Parameter(name="a_1", low=0.0, high=3.0, meaning="exponent of size"),
        Parameter(name="A_2", low=1e-9, high=1e12, log=True, meaning="vocabulary scale"),
        Parameter(name="a_2", low=0.0, high=3.0, meaning="exponent of the vocabulary"),
        Parameter(name="B", low=1e-9, high=1e12, log=True, meaning="data scale"),
        Parameter(name="b", low=0.0, high=3.0, meaning="exponent of characters"),
    )

    def predict(self, theta: Array, x: Data) -> Array:
        size = theta[..., 1, None] * x["params"] ** -theta[..., 2, None]
        words = theta[..., 3, None] * x["vocab_params"] ** -theta[..., 4, None]
        seen = x["characters"] * tokens_per_character(x["vocab"] / 1e3)
        data = theta[..., 5, None] * seen ** -theta[..., 6, None]
        return -theta[..., 0, None] + size + words + data


LAW = Vocabulary()
