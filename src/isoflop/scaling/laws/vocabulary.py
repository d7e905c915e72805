"""Unigram-normalised loss from vocabulary size."""

from __future__ import annotations

from typing import ClassVar, final

from ..law import Array, Data, Law, Parameter


@final
class Vocabulary(Law):
    """L_u = -E + A_1 / N_nv^a_1 + A_2 / N_v^a_2 + B / H^b.

    N_nv non-vocabulary parameters, N_v vocabulary parameters, H training characters.

    References
    ----------
    Tao et al. 2024, Scaling Laws with Vocabulary, arXiv 2407.13623, equation 6.
    """

    name: ClassVar[str] = "vocabulary"
    title: ClassVar[str] = "unigram-normalised loss from vocabulary size"
    reference: ClassVar[str] = "Tao et al. 2024, arXiv 2407.13623, equation 6"
    inputs: ClassVar[tuple[str, ...]] = ("params", "vocab_params", "characters")
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
        data = theta[..., 5, None] * x["characters"] ** -theta[..., 6, None]
        return -theta[..., 0, None] + size + words + data


LAW = Vocabulary()
