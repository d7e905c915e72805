"""Continuous batching with chunked prompts, as vLLM v1 schedules."""

from __future__ import annotations

from typing import ClassVar, final

from ..policy import Policy


@final
class Vllm(Policy):
    """Running sequences first, then prompts in order, cut to the step's token budget.

    References
    ----------
    Kwon et al. 2023, Efficient Memory Management for LLM Serving with PagedAttention,
    arXiv 2309.06180; the vLLM v1 scheduler.
    """

    title: ClassVar[str] = "running sequences first, chunked prompts fill the token budget"


POLICY = Vllm()
