"""1F1B: as soon as possible one backward after each forward."""

from __future__ import annotations

from typing import ClassVar, final

from ..schedule import Schedule, StageTimes, Task


@final
class OneForwardOneBackward(Schedule):
    """GPipe's time with at most p - s micro-batches in flight on stage s.

    References
    ----------
    Narayanan et al. 2021, Efficient Large-Scale Language Model Training on GPU Clusters Using
    Megatron-LM, arXiv 2104.04473, section 2.2.1 (PipeDream-Flush).
    """

    title: ClassVar[str] = "one forward, one backward"
    reference: ClassVar[str] = "Megatron-LM, arXiv 2104.04473"

    def order(self, stage: int, stages: int, micro_batches: int, chunks: int) -> list[Task]:
        warm = min(stages - stage - 1, micro_batches)
        tasks = [Task("F", m) for m in range(warm)]
        for m in range(micro_batches - warm):
            tasks += [Task("F", warm + m), Task("B", m)]
        return tasks + [Task("B", m) for m in range(micro_batches - warm, micro_batches)]

    def closed_form_s(self, stages: int, micro_batches: int, chunks: int, t: StageTimes) -> float:
        """(m + p - 1) (f + b): the bubble of GPipe, less memory."""
        return (micro_batches + stages - 1) * (t.forward_s + t.backward_s + t.weight_s)


SCHEDULE = OneForwardOneBackward()
