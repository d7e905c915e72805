"""SpecPrefill's choice of tokens, tried on a task with a known answer."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ...cost.step import StepModel
from ...errors import InvalidInput
from ..method import Method, MethodReport
from ..token_choice import FACTS, VALUES, answer, draw_prompts, keep_tokens, learner, look_ahead
from .spec_prefill import METHOD as SPEC_PREFILL

SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
PROMPT = 32768
"""Prompt at which the time of the asked-for model is quoted."""


@final
class SpecPrefillTokens(Method):
    """What a model answers from the share of its prompt that a smaller one keeps.

    Two transformers (width 16 and 32) learn to recall the value of a key named somewhere among 48
    words, in about ten seconds on one core; then the smaller one's attention over its look-ahead
    steps chooses chunks of new prompts and the larger one reads those alone, at their own places.
    `draft_right` is how often it is right then, `own_right` with chunks chosen by its own
    attention, `random_right` with as many random ones; a guess is right a quarter of the time.
    `speedup` is what keeping that share saves the asked-for model's first token at 32,768 tokens,
    as `spec-prefill` prices it with its own draft.

    Checked: the rule against a plain reading of the paper's steps. Its claims that importance
    carries over from a small model to a large one and that looking ahead helps hold on this task:
    from a tenth of the words the model is right 95% of the time (89% with one step instead of
    four), 98% by its own choice, 34% from random ones. An answer that stands in one place of the
    prompt is what suits the method; its benchmarks (LongBench, RULER) need the models themselves
    and were not run.

    References
    ----------
    Liu et al. 2025, Speculative Prefill, arXiv 2502.02789, algorithm 1.
    """

    title: ClassVar[str] = (
        "which tokens a small model keeps, and what a large one answers from them"
    )
    reference: ClassVar[str] = "Speculative Prefill, arXiv 2502.02789, algorithm 1"
    example: ClassVar[str] = "llama-3.1-405b --on 8xh200 --weights fp8"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "look_ahead": (4.0, "steps whose attention scores the prompt, the last prompt token's own "
                       "included"),
        "pool": (1.0, "neighbouring tokens over which attention is smoothed, odd"),
        "chunk": (4.0, "tokens kept or left out together"),
        "prompts": (200.0, "prompts tried"),
        "steps": (600.0, "training steps of each model"),
    }  # fmt: skip

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        if any(v != round(v) for v in settings.values()):
            raise InvalidInput("The options of this method are whole numbers.")
        whole = {name: int(value) for name, value in settings.items()}
        draft = learner(16, steps=whole["steps"], learning_rate=0.01)
        model = learner(32, steps=whole["steps"])
        rng = np.random.default_rng(1)
        tokens, wanted = draw_prompts(rng, whole["prompts"])
        asked = list(zip(tokens[:, : FACTS + 1], wanted[:, FACTS]))
        scores = {name: [look_ahead(m, prompt, whole["look_ahead"]) for prompt, _ in asked]
                  for name, m in (("draft", draft), ("own", model))}  # fmt: skip
        scores["random"] = [rng.random(a.shape) for a in scores["own"]]
        records = []
        for share in SHARES:
            record: dict[str, float] = {"keep": share}
            for name, each in scores.items():
                # Chunks of random numbers are random chunks: nothing to smooth.
                pool = 1 if name == "random" else whole["pool"]
                kept = [keep_tokens(a, share, pool=pool, chunk=whole["chunk"]) for a in each]
                record["words"] = float(np.mean([len(k) for k in kept]))
                record[f"{name}_right"] = float(np.mean([
                    answer(model, prompt, k) == value for (prompt, value), k in zip(asked, kept)
                ]))  # fmt: skip
            record["speedup"] = _speedup(step, share)
            records.append(record)
        some = next(r for r in records if r["keep"] == 0.25)
        text = (
            f"From a quarter of {FACTS + 1} words the model answers {some['draft_right']:.0%} when "
            f"the draft chooses them, {some['own_right']:.0%} when it does itself, "
            f"{some['random_right']:.0%} from random ones ({1 / VALUES:.0%} by guessing); "
            f"{records[-1]['own_right']:.0%} from all of them."
        )
        return MethodReport(
            title="Answers from kept tokens", records=records, conclusion=text,
            columns=("keep", "words", "draft_right", "own_right", "random_right", "speedup"),
        )  # fmt: skip


def _speedup(step: StepModel, share: float) -> float:
    """Of the first token of a long prompt, by keeping that share."""
    rows = SPEC_PREFILL.run(step, SPEC_PREFILL.complete({"keep": share})).rows()
    return next(r["speedup"] for r in reversed(rows) if r["prompt"] <= PROMPT)


METHOD = SpecPrefillTokens()
