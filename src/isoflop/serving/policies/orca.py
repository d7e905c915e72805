"""Iteration-level scheduling with whole prompts inside mixed steps (Orca)."""

from __future__ import annotations

from typing import ClassVar, final

from ..policy import Policy


@final
class Orca(Policy):
    """Requests join and leave at every iteration; prompts are never cut, steps have no budget.

    References
    ----------
    Yu et al. 2022, Orca: A Distributed Serving System for Transformer-Based Generative Models,
    OSDI 2022, section 4.
    """

    title: ClassVar[str] = "iteration-level, whole prompts join the decoding step"
    chunked: ClassVar[bool] = False
    limited: ClassVar[bool] = False


POLICY = Orca()
