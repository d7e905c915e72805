"""Interleaved 1F1B: several model chunks per stage shorten the bubble."""

from __future__ import annotations

from typing import ClassVar, final

from ...errors import InvalidPlan
from ..schedule import Schedule, StageTimes, Task


@final
class Interleaved(Schedule):
    """Each stage holds v chunks, visited in rounds of p micro-batches.

    References
    ----------
    Narayanan et al. 2021, Megatron-LM, arXiv 2104.04473, section 2.2.2: the bubble shrinks v-fold.
    """

    title: ClassVar[str] = "one forward, one backward, over several chunks per stage"
    reference: ClassVar[str] = "Megatron-LM, arXiv 2104.04473"

    def check(self, stages: int, micro_batches: int, chunks: int) -> None:
        if stages < 1 or micro_batches < 1 or chunks < 1:
            raise InvalidPlan("A pipeline has at least one stage, micro-batch and chunk.")
        if micro_batches % stages:
            raise InvalidPlan(
                f"Interleaving goes in rounds of {stages} micro-batches, which do not divide "
                f"{micro_batches}. Use a multiple of {stages}."
            )

    def order(self, stage: int, stages: int, micro_batches: int, chunks: int) -> list[Task]:
        total = micro_batches * chunks

        def at(k: int, backward: bool) -> Task:
            """The k-th chunk visit: rounds of p micro-batches through all chunks."""
            turn, inside = divmod(k, stages * chunks)
            chunk, within = divmod(inside, stages)
            chunk = chunks - 1 - chunk if backward else chunk
            return Task("B" if backward else "F", turn * stages + within, chunk)

        warm = min((stages - stage - 1) * 2 + (chunks - 1) * stages, total)
        if chunks == 1:
            warm = min(stages - stage - 1, total)
        tasks = [at(k, False) for k in range(warm)]
        for k in range(total - warm):
            tasks += [at(warm + k, False), at(k, True)]
        return tasks + [at(k, True) for k in range(total - warm, total)]

    def closed_form_s(self, stages: int, micro_batches: int, chunks: int, t: StageTimes) -> float:
        """m (f + b) + (p - 1) (f + b) / v."""
        each = t.forward_s + t.backward_s + t.weight_s
        return micro_batches * each + (stages - 1) * each / chunks


SCHEDULE = Interleaved()
