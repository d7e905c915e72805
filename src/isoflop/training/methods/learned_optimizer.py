"""What an optimizer costs per step: hand-designed and learned ones, in FLOP, bytes and time."""

from __future__ import annotations

from typing import Any, ClassVar, final

from ..method import MethodReport, Setting, TrainingMethod
from ..update import VECTOR_SHARE
from ..update_rules import ADAM, SGD_MOMENTUM, UpdateRule, perceptron_rule, update_cost

RULES = (
    SGD_MOMENTUM,
    ADAM,
    UpdateRule(name="Adafactor", flop=12, state_bytes=0.02, moved_bytes=16),
    perceptron_rule("learned, 2 layers of 32", 39, 32, 2, 5),
    perceptron_rule("learned, 1 layer of 4", 39, 4, 1, 5),
)
"""The learned ones have the sizes of the paper's per-parameter networks: 39 features, hidden width
32 (its baseline) and 4 (the smaller rule it proposes)."""


@final
class LearnedOptimizer(TrainingMethod):
    """Overhead of an update beside the forward and backward pass, by tokens per step.

    Update rules run at the vector rate or at memory bandwidth, whichever is slower; their cost does
    not depend on the batch, so it matters for small batches and large models.

    References
    ----------
    Metz et al. 2022, Practical tradeoffs between memory, compute, and performance in learned
    optimizers, arXiv 2203.11860.
    """

    title: ClassVar[str] = "what hand-designed and learned optimizers cost per step"
    reference: ClassVar[str] = "Practical tradeoffs in learned optimizers, arXiv 2203.11860"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "batch": (8.0, "sequences of a step per device"),
        "vector_share": (VECTOR_SHARE, "share of the vector rate that small networks reach"),
        "memory_share": (0.8, "share of memory bandwidth that elementwise kernels reach"),
    }

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        device, n = setting.device, float(setting.model.parameters)
        compute = setting.compute_s(int(settings["batch"]))
        records: list[dict[str, Any]] = []
        for rule in RULES:
            update, bound = update_cost(
                rule, n, device, settings["vector_share"], settings["memory_share"]
            )
            records.append({
                "rule": rule.name, "flop_per_parameter": rule.flop,
                "state_bytes": rule.state_bytes * n, "update_s": update,
                "bound": bound,
                "overhead": update / compute,
            })  # fmt: skip
        adam, large = records[1], records[3]
        return MethodReport(
            title=f"{setting.model.name}, {settings['batch']:.0f} sequences per step",
            columns=("rule", "flop_per_parameter", "state_bytes", "update_s", "bound", "overhead"),
            records=records,
            conclusion=f"Adam adds {adam['overhead']:.1%} to a step, the larger learned rule "
            f"{large['overhead']:.1%}: it must save that share of the steps to pay.",
        )  # fmt: skip


METHOD = LearnedOptimizer()
