"""DualPipe: micro-batches enter at both ends, and forwards run beside backwards."""

from __future__ import annotations

from typing import ClassVar, final

from ...errors import InvalidPlan
from ..schedule import Schedule, StageTimes, Task


@final
class DualPipe(Schedule):
    """Half of the micro-batches from each end over devices that hold two stages of the model.

    Device r holds stages r and p - 1 - r. In the steady state a forward of one direction runs
    beside a backward of the other, so that the exchange of one hides behind the products of the
    other; `weight` gradients are put off only where a device would wait. Near and far mean the
    directions that enter at the nearer and the farther end of the pipeline, h the distance to the
    nearer end and q = p / 2:

        2 (q - h - 1)  F near
        h + 1          F near, F far
        q - h - 1      B far, W, F far
        m/2 - p + h+1  F near beside B far, F far beside B near
        q - h - 1      B far, F far beside B near
        h + 1          B far, B near, the later half of them without W
        q - h - 1      W, B near without W
        h + 1          W

    References
    ----------
    DeepSeek-AI 2024, DeepSeek-V3 Technical Report, arXiv 2412.19437, section 3.2.1, figure 5 and
    table 2: bubble (p/2 - 1)(F&B + B - 3 W), activations of p + 1 micro-batches.
    """

    title: ClassVar[str] = "two directions at once, forwards beside backwards"
    reference: ClassVar[str] = "DeepSeek-V3, arXiv 2412.19437"

    def check(self, stages: int, micro_batches: int, chunks: int) -> None:
        super().check(stages, micro_batches, chunks)
        if stages % 2 or micro_batches % 2 or micro_batches < 2 * stages:
            raise InvalidPlan(
                "DualPipe needs an even number of stages and an even number of micro-batches, at "
                f"least two per stage; {stages} stages and {micro_batches} micro-batches are not. "
                f"Use {stages + stages % 2} stages and {2 * (stages + stages % 2)} or more."
            )

    def order(self, stage: int, stages: int, micro_batches: int, chunks: int) -> list[Task]:
        half, h = stages // 2, min(stage, stages - 1 - stage)
        return _Order(near=int(stage >= half)).build(half, h, micro_batches)

    def closed_form_s(self, stages: int, micro_batches: int, chunks: int, t: StageTimes) -> float:
        """m (f + b + w) + (p/2 - 1)(f + 2 b - w), for w at most f and f at most b.

        With B = b + w of the paper and F&B = F + B: compute that shares a device gains nothing.
        """
        each = t.forward_s + t.backward_s + t.weight_s
        left = t.forward_s + 2.0 * t.backward_s - t.weight_s
        return micro_batches * each + (stages / 2 - 1) * left


class _Order:
    """Tasks of one device in order."""

    def __init__(self, near: int):
        self.near, self.far = near, 1 - near
        self.count: dict[tuple[str, int], int] = {}
        self.tasks: list[Task] = []
        self.later: list[Task] = []

    def build(self, half: int, h: int, micro_batches: int) -> list[Task]:
        near, far, gap = self.near, self.far, half - h - 1
        for _ in range(2 * gap):
            self.forward(near)
        for _ in range(h + 1):
            self.forward(near)
            self.forward(far)
        for _ in range(gap):
            self.backward(far, put_off=True)
            self.weight()
            self.forward(far)
        for _ in range(micro_batches // 2 - 2 * half + h + 1):
            self.both(near, far)
            self.both(far, near)
        for _ in range(gap):
            self.backward(far)
            self.both(far, near)
        for i in range(2 * (h + 1)):
            self.backward((far, near)[i % 2], put_off=i > h)
        for _ in range(gap):
            self.weight()
            self.backward(near, put_off=True)
        for _ in range(h + 1):
            self.weight()
        return self.tasks

    def take(self, kind: str, direction: int) -> Task:
        m = self.count.get((kind, direction), 0)
        self.count[kind, direction] = m + 1
        return Task("F" if kind == "F" else "B", m, 0, direction)

    def forward(self, direction: int) -> None:
        self.tasks.append(self.take("F", direction))

    def backward(self, direction: int, *, put_off: bool = False) -> None:
        back = self.take("B", direction)
        self.tasks.append(back)
        if put_off:
            self.later.append(Task("W", back.micro_batch, 0, direction))

    def weight(self) -> None:
        self.tasks.append(self.later.pop(0))

    def both(self, forward: int, backward: int) -> None:
        front, back = self.take("F", forward), self.take("B", backward)
        self.tasks.append(Task("F", front.micro_batch, 0, forward, back))


SCHEDULE = DualPipe()
