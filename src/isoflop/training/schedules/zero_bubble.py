"""Zero bubble (ZB-H1): weight gradients fill what 1F1B leaves idle."""

from __future__ import annotations

from typing import ClassVar, final

from ..schedule import Schedule, StageTimes, Task


@final
class ZeroBubble(Schedule):
    """1F1B with the weights' gradient apart and put off, no more memory than 1F1B.

    Stage s, counted from 0, puts off s weight gradients and does them where 1F1B would wait for
    the stages behind it.

    References
    ----------
    Qi et al. 2023, Zero Bubble Pipeline Parallelism, arXiv 2401.10241, section 2 (ZB-H1).
    """

    title: ClassVar[str] = "weight gradients fill the bubble of one forward, one backward"
    reference: ClassVar[str] = "Zero Bubble Pipeline Parallelism, arXiv 2401.10241"

    def order(self, stage: int, stages: int, micro_batches: int, chunks: int) -> list[Task]:
        warm = min(stages - stage - 1, micro_batches)
        put_off = min(stage, micro_batches)
        tasks = [Task("F", m) for m in range(warm)]
        done = 0
        for m in range(micro_batches - warm):
            tasks += [Task("F", warm + m), Task("B", m)]
            if m >= put_off:
                tasks.append(Task("W", done))
                done += 1
        for m in range(micro_batches - warm, micro_batches):
            tasks.append(Task("B", m))
            if m >= put_off:
                tasks.append(Task("W", done))
                done += 1
        return tasks + [Task("W", m) for m in range(done, micro_batches)]

    def closed_form_s(self, stages: int, micro_batches: int, chunks: int, t: StageTimes) -> float:
        """m (f + b + w) + (p - 1) (f + b - w), for w at most f and b and m at least 2 p."""
        each = t.forward_s + t.backward_s + t.weight_s
        left = max(t.forward_s + t.backward_s - t.weight_s, 0.0)
        return micro_batches * each + (stages - 1) * left


SCHEDULE = ZeroBubble()
