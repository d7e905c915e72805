"""Which teacher to distil from, or none."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ...units import show_count
from ..choice import Choice, MethodReport, law_of, outside, predict

RATIOS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@final
class Teacher(Choice):
    """Loss of a student by its teacher, against training it alone on the same budget.

    The student's size is given; the budget buys its tokens. Alone, a token costs 6 N; distilled,
    6 N and the teacher's forward pass 2 N_T, if its logits are computed for this student
    (`logits` 1) and 6 N_T D_T to train it too (`train_teacher` 1), with D_T = 20 tokens per
    parameter. Better teachers help until the capacity gap.

    References
    ----------
    Busbridge et al. 2025, Distillation Scaling Laws, arXiv 2502.08606.
    """

    title: ClassVar[str] = "which teacher to distil from, or none"
    reference: ClassVar[str] = "Distillation Scaling Laws, arXiv 2502.08606"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "student": (1e9, "parameters of the student"),
        "logits": (1.0, "share of the teacher's forward passes that this student pays for"),
        "train_teacher": (0.0, "share of the teacher's training that it pays for"),
        "teacher_ratio": (20.0, "tokens per parameter the teacher was trained on"),
    }

    def run(self, budget_flop: float, settings: dict[str, float]) -> MethodReport:
        alone, law, theta = law_of("busbridge-2025")
        _, student, theta_s = law_of("busbridge-2025-student")
        n = settings["student"]
        records = []
        d_alone = budget_flop / (6.0 * n)
        base = predict(law, theta, params=n, tokens=d_alone)
        records.append({"teacher_params": None, "teacher_loss": None, "tokens": d_alone,
                        "loss": base})  # fmt: skip
        for ratio in RATIOS:
            n_t = n * ratio
            d_t = settings["teacher_ratio"] * n_t
            spent = settings["train_teacher"] * 6.0 * n_t * d_t
            if spent >= budget_flop:
                continue
            tokens = (budget_flop - spent) / (6.0 * n + settings["logits"] * 2.0 * n_t)
            l_t = predict(law, theta, params=n_t, tokens=d_t)
            l_alone = predict(law, theta, params=n, tokens=tokens)
            value = predict(student, theta_s, params=n, tokens=tokens, loss_teacher=l_t,
                            loss_alone=l_alone)  # fmt: skip
            records.append({"teacher_params": n_t, "teacher_loss": l_t, "tokens": tokens,
                            "loss": value})  # fmt: skip
        best = min(records, key=lambda r: r["loss"])
        text = (
            "Train the student alone: no teacher pays at this budget."
            if best["teacher_params"] is None else
            f"Distil from a teacher of {show_count(best['teacher_params'])} parameters: loss "
            f"{best['loss']:.4f} against {base:.4f} alone."
        )  # fmt: skip
        return MethodReport(
            title=f"A student of {show_count(n)} parameters for {budget_flop:.3g} FLOP",
            columns=("teacher_params", "teacher_loss", "tokens", "loss"), records=records,
            conclusion=text + outside(alone, params=n, tokens=float(np.max(d_alone))),
        )  # fmt: skip


CHOICE = Teacher()
