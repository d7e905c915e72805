"""SpecPrefill: a small model chooses which prompt tokens the large one reads."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ...cost.step import StepModel
from ...errors import InvalidInput, InvalidPlan
from ...models import load_model
from ...plans import Plan
from ..method import Method, MethodReport

PROMPTS = (1024, 4096, 8192, 16384, 32768, 65536)
DRAFTS = ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "llama-3.1-70b")
"""Models that draft; the one nearest in parameters to what is asked for."""


@final
class SpecPrefill(Method):
    """Time to first token with a share of the prompt kept.

    TTFT = the draft on the whole prompt + its look-ahead tokens, whose attention scores the prompt
    + the large model on the kept share. The draft is a model of its own in bf16 on the same
    devices, at the same tensor degree: its kernels and collectives are small there, so it costs
    more than its share of the parameters. `spec-prefill-tokens` tries which
    tokens to keep.

    Checked: Llama 3.1 405B in FP8 with an 8B draft on eight H200 at a tenth of the tokens, where
    the paper measures up to 7.66 times: 6.2 at 8,192 tokens, 7.4 at 32,768 and 8.0 at 65,536. A
    keep rate of 1 only loses.

    References
    ----------
    Liu et al. 2025, Speculative Prefill, arXiv 2502.02789.
    """

    title: ClassVar[str] = "first token when a small model keeps only the important prompt tokens"
    reference: ClassVar[str] = "Speculative Prefill, arXiv 2502.02789"
    example: ClassVar[str] = "llama-3.1-405b --on 8xh200 --weights fp8"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "keep": (0.1, "share of prompt tokens kept, at most 1"),
        "draft_params": (8e9, "parameters of the draft model, a Llama of about that size"),
        "look_ahead": (8.0, "tokens the draft decodes to score the prompt"),
    }

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        keep = settings["keep"]
        if keep > 1:
            raise InvalidInput(f"The share of tokens kept is at most 1, not {keep}.")
        small = _draft(step, settings["draft_params"])
        prompts = np.array([p for p in PROMPTS if p <= step.model.max_context], float)
        one = np.ones_like(prompts)
        full = step.prefill_s(one, prompts)
        kept = step.prefill_s(one, np.maximum(1.0, np.round(keep * prompts)))
        read = small.prefill_s(one, prompts)
        ahead = settings["look_ahead"] * small.decode_s(one, prompts)
        records = [
            {"prompt": int(p), "full_s": float(f), "draft_s": float(d), "look_ahead_s": float(a),
             "kept_s": float(k), "speedup": float(f / (d + a + k))}
            for p, f, d, a, k in zip(prompts, full, read, ahead, kept)
        ]  # fmt: skip
        best = max(records, key=lambda r: r["speedup"])
        text = (
            f"Keeping {keep:.0%} of the tokens that {small.model.name} scores speeds up the first "
            f"token at most {best['speedup']:.2f} times, at {best['prompt']:,} tokens. The draft "
            f"alone bounds it at {float(np.max(full / (read + ahead))):.1f} times; what keeping "
            "less does to answers: spec-prefill-tokens."
        )
        return MethodReport(
            title="Time to first token", columns=("prompt", "full_s", "draft_s", "look_ahead_s",
            "kept_s", "speedup"), records=records, conclusion=text,
        )  # fmt: skip


def _draft(step: StepModel, parameters: float) -> StepModel:
    """The draft on the devices of `step`; its tensor degree falls to what its heads divide by."""
    models = [load_model(name) for name in DRAFTS]
    model = min(models, key=lambda m: abs(np.log(m.parameters / parameters)))
    tensor = step.plan.tensor
    while tensor > 1:
        try:
            Plan(tensor=tensor).check(model)
            break
        except InvalidPlan:
            tensor //= 2
    return StepModel(model=model, plan=Plan(tensor=tensor), device=step.device,
                     cluster=step.cluster, engine=step.engine)  # fmt: skip


METHOD = SpecPrefill()
