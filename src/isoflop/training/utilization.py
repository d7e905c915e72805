"""Model FLOP utilisation and its cousins, each with its convention named.

- model: 3 x forward, causal attention counted at half the score matrix or whole (`causal`);
- hardware: what is executed, recomputation included (Chowdhery et al. 2022, appendix B);
- megatron-2021: 96 B s l h^2 (1 + s/(6h) + V/(16 l h)), full recomputation and whole attention
  counted whether or not they ran (Narayanan et al. 2021, equation 3);
- megatron-model: the same without recomputation, 72 instead of 96.
"""

from __future__ import annotations

from typing import Literal, get_args

from ..errors import InvalidInput
from .plan import TrainingJob

Convention = Literal["model", "model-causal", "6n", "megatron-2021", "megatron-model"]


def step_flop(job: TrainingJob, convention: Convention = "model-causal") -> float:
    """FLOP of one optimizer step under a convention, over all devices.

    Raises
    ------
    InvalidInput
        If the convention is not one of them.
    """
    if convention not in get_args(Convention):
        raise InvalidInput(
            f"The FLOP convention is '{convention}'; it must be one of "
            f"{', '.join(get_args(Convention))}."
        )
    model, tokens, s = job.model, float(job.step_tokens), job.sequence_tokens
    if convention == "6n":
        return 6.0 * model.compute_parameters * tokens
    if convention.startswith("megatron"):
        h, layers = model.hidden, model.depth
        rounds = 96.0 if convention == "megatron-2021" else 72.0
        return (
            rounds
            * tokens
            * layers
            * h**2
            * (1 + s / (6.0 * h) + model.vocab / (16.0 * layers * h))
        )
    pairs = (s + 1) / 2.0 if convention == "model-causal" else float(s)
    scores = 0.0
    for g in model.layers:
        m = g.mixer
        if m.kind in ("attention", "mla"):
            qk = m.head_dim + (m.rope_dim if m.kind == "mla" else 0)
            keys = min(pairs, m.window) if m.window else pairs
            scores += g.count * 2.0 * m.heads * (qk + (m.v_head_dim or m.head_dim)) * keys
    return 3.0 * tokens * (2.0 * model.compute_parameters + scores)
