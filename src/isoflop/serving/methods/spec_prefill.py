"""SpecPrefill: a small model chooses which prompt tokens the large one reads."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ...cost.step import StepModel
from ...errors import InvalidInput
from ..method import Method, MethodReport

PROMPTS = (1024, 4096, 8192, 16384, 32768, 65536)


@final
class SpecPrefill(Method):
    """Time to first token with a share of the prompt kept.

    TTFT = drafting the whole prompt + the large model on the kept share. The draft is priced as
    the large model's time scaled by their compute parameters.

    References
    ----------
    Liu et al. 2025, Speculative Prefill, arXiv 2502.02789.
    """

    title: ClassVar[str] = "first token when a small model keeps only the important prompt tokens"
    reference: ClassVar[str] = "Speculative Prefill, arXiv 2502.02789"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "keep": (0.1, "share of prompt tokens kept, at most 1"),
        "draft_params": (8e9, "parameters of the draft model"),
    }

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        keep = settings["keep"]
        if keep > 1:
            raise InvalidInput(f"The share of tokens kept is at most 1, not {keep}.")
        prompts = np.array([p for p in PROMPTS if p <= step.model.max_context], float)
        full = step.prefill_s(np.ones_like(prompts), prompts)
        small = step.prefill_s(np.ones_like(prompts), np.maximum(1.0, np.round(keep * prompts)))
        draft = settings["draft_params"] / step.model.active_parameters * full
        records = [
            {"prompt": int(p), "full_s": float(f), "draft_s": float(d), "kept_s": float(s),
             "speedup": float(f / (d + s))}
            for p, f, d, s in zip(prompts, full, draft, small)
        ]  # fmt: skip
        best = max(records, key=lambda r: r["speedup"])
        ratio = settings["draft_params"] / step.model.active_parameters
        text = (
            f"Keeping {keep:.0%} of the tokens speeds up the first token at most "
            f"{best['speedup']:.2f} times, at {best['prompt']:,} tokens. The draft alone bounds it "
            f"at {1 / ratio:.1f} times; what it does to quality is not priced."
        )
        return MethodReport(
            title="Time to first token", columns=("prompt", "full_s", "draft_s", "kept_s",
            "speedup"), records=records, conclusion=text,
        )  # fmt: skip


METHOD = SpecPrefill()
