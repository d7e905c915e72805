"""GPipe: all forwards, then all backwards."""

from __future__ import annotations

from typing import ClassVar, final

from ..schedule import Schedule, StageTimes, Task


@final
class GPipe(Schedule):
    """Every micro-batch forward, then every one backward: all activations are held at once.

    References
    ----------
    Huang et al. 2019, GPipe, arXiv 1811.06965, section 2.2.
    """

    title: ClassVar[str] = "all forwards, then all backwards"
    reference: ClassVar[str] = "GPipe, arXiv 1811.06965"

    def order(self, stage: int, stages: int, micro_batches: int, chunks: int) -> list[Task]:
        forward = [Task("F", m) for m in range(micro_batches)]
        return forward + [Task("B", m) for m in range(micro_batches)]

    def closed_form_s(self, stages: int, micro_batches: int, chunks: int, t: StageTimes) -> float:
        """(m + p - 1) (f + b)."""
        return (micro_batches + stages - 1) * (t.forward_s + t.backward_s + t.weight_s)


SCHEDULE = GPipe()
