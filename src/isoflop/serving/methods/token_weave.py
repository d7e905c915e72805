"""TokenWeave: two halves of a batch, one computing while the other communicates."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ...cost.features import Batch
from ...cost.step import StepModel
from ...errors import InvalidPlan
from ..method import Method, MethodReport

TOKENS = (256, 512, 1024, 2048, 4096, 8192, 16384)
SPLITS = 17
"""Places tried for the split, from three to five eighths: whole waves are not exactly half."""


@final
class TokenWeave(Method):
    """Step time with the tokens split in two and the all-reduce of one half hidden.

    Of each layer, compute of one half overlaps the fused all-reduce and norm of the other, which
    keep `units` compute units busy; what cannot hide is one all-reduce of a half at the end of
    the step. Splitting costs tiles: the two halves are priced as products of their own.

    References
    ----------
    Gond et al. 2025, TokenWeave, arXiv 2505.11329.
    """

    title: ClassVar[str] = "two token halves, one computing while the other communicates"
    reference: ClassVar[str] = "TokenWeave, arXiv 2505.11329"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "units": (8.0, "compute units the fused all-reduce and norm occupy"),
    }

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        if step.plan.tensor < 2:
            raise InvalidPlan("There is nothing to hide on one device: give a plan such as tp8.")
        tokens = np.array(TOKENS, float)
        compute, network, norms = _parts(step, tokens)
        plain = compute + network + norms
        share = np.linspace(0.375, 0.625, SPLITS)
        units = step.device.compute.units
        slower = units / max(units - settings["units"], 1.0)
        best = np.full(len(tokens), np.inf)
        for s in share:
            first = np.round(tokens * s)
            a, na, _ = _parts(step, first)
            b, nb, _ = _parts(step, tokens - first, first)
            # One half's compute covers the other's communication, layer by layer.
            layers = step.model.depth
            woven = slower * np.maximum(a, nb) + slower * np.maximum(b, na)
            best = np.minimum(best, woven + np.minimum(na, nb) / layers)
        records = [
            {"tokens": int(t), "plain_s": float(p), "network_share": float((n + m) / p),
             "woven_s": float(min(w, p)), "gain": float(p / min(w, p))}
            for t, p, n, m, w in zip(tokens, plain, network, norms, best)
        ]  # fmt: skip
        pays = [r["tokens"] for r in records if r["gain"] > 1.01]
        text = (
            f"It pays from {min(pays):,} tokens per step on, at most "
            f"{max(r['gain'] for r in records):.2f} times." if pays
            else "Splitting costs more than the communication it hides at every size."
        )  # fmt: skip
        return MethodReport(
            title=f"Prompt step on {step.plan.describe()}", columns=("tokens", "plain_s",
            "network_share", "woven_s", "gain"), records=records, conclusion=text,
        )  # fmt: skip


def _parts(
    step: StepModel, tokens: np.ndarray, prior: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds of compute, of collectives, and of the norms that fuse into them."""
    batch = Batch(prefill_sequences=1.0, prefill_tokens=tokens, prefill_prior=prior)
    times = step.operator_s(batch)
    network = np.array([op.kind == "collective" for op in step.operators])
    norms = np.array([op.part == "norms" for op in step.operators]) & ~network
    rest = ~network & ~norms
    return times[rest].sum(axis=0), times[network].sum(axis=0), times[norms].sum(axis=0)


METHOD = TokenWeave()
