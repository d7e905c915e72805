"""Stall-free batching with small chunks (Sarathi-Serve)."""

from __future__ import annotations

from typing import ClassVar, final

from ..policy import Policy


@final
class Sarathi(Policy):
    """As vLLM v1's, with a token budget small enough to bound every step's time.

    The budget is the engine's `--tokens`; Sarathi-Serve uses 512 for tight promises and 2048 for
    relaxed ones.

    References
    ----------
    Agrawal et al. 2024, Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve,
    arXiv 2403.02310, section 4.
    """

    title: ClassVar[str] = "stall-free: decoding first, small prompt chunks in every step"
    most_tokens: ClassVar[int] = 512


POLICY = Sarathi()
