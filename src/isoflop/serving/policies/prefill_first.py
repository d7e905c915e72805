"""Prompts take steps of their own, before decoding goes on (vLLM v0 and early TGI)."""

from __future__ import annotations

from typing import ClassVar, final

from ..policy import Policy


@final
class PrefillFirst(Policy):
    """Whole prompts in steps without decoding: the best first token, stalls for the others.

    References
    ----------
    Agrawal et al. 2024, Sarathi-Serve, arXiv 2403.02310, section 3: prefill-prioritising
    schedulers and their generation stalls.
    """

    title: ClassVar[str] = "whole prompts in steps of their own, decoding waits"
    chunked: ClassVar[bool] = False
    mixed: ClassVar[bool] = False


POLICY = PrefillFirst()
