"""Cramming's recipe: packing, sparse prediction, a ramped batch and one cycle in a day's budget."""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

import numpy as np
from attrs import evolve, frozen

from ...errors import DoesNotFit
from ...models import FeedForward, LayerGroup, Mixer, ModelSpec
from ..memory import memory_parts, total_bytes, usable_bytes
from ..method import MethodReport, Setting, TrainingMethod
from ..plan import Plans, Recipe, TrainingJob, TrainingPlan
from ..time import StepPricer

LAYERS, WIDTH, HEADS, INNER, VOCABULARY = 16, 768, 12, 1536, 32768
"""The published crammed BERT: 16 layers, gated units of half of 3,072, tied embeddings; its weights
are 478 MB in fp32."""
RISE, START = 0.75, 0.25
"""The published schedule, a triangle of wall-clock time: the learning rate rises from a quarter of
its peak over three quarters of the budget and falls to nothing in the last."""
MOST_MICRO_BATCH = 1024


@frozen(kw_only=True)
class Ramp:
    """A batch that grows linearly with time to its full size, then stays.

    Attributes
    ----------
    seconds, share : float
        The budget, and the share of it over which the batch grows.
    first, full : float
        Sequences of the first and of a full batch.
    sequence_s, update_s : float
        Seconds of a sequence's passes, and of an update.
    """

    seconds: float
    share: float
    first: float
    full: float
    sequence_s: float
    update_s: float

    def updates(self) -> float:
        """Updates in the budget: the integral of one over the seconds that a batch takes."""
        a = self.first * self.sequence_s + self.update_s
        b = self.full * self.sequence_s + self.update_s
        grown = self.share * self.seconds
        rising = grown / a if b == a else grown * math.log(b / a) / (b - a)
        return rising + (self.seconds - grown) / b

    def sequences(self) -> float:
        """Sequences seen: what of the budget updates leave."""
        return (self.seconds - self.updates() * self.update_s) / self.sequence_s


def learning_rate(share: float) -> float:
    """Learning rate over its peak at a share of the budget, 0 to 1."""
    return min(START + share * (1.0 - START) / RISE, (1.0 - share) / (1.0 - RISE))


def filled(document_tokens: float, sequence_tokens: int) -> float:
    """Share of tokens that are text where every document is padded to whole sequences.

    Documents of geometrically distributed length: of mean m they take 1 / (1 - (1 - 1/m)^s)
    sequences of s tokens on average.
    """
    rest = (1.0 - 1.0 / max(document_tokens, 1.0)) ** sequence_tokens
    return max(document_tokens, 1.0) * (1.0 - rest) / sequence_tokens


def crammed_bert(like: ModelSpec) -> ModelSpec:
    """The published architecture; `like` lends its source."""
    mixer = Mixer(
        kind="attention", heads=HEADS, kv_heads=HEADS, head_dim=WIDTH // HEADS, causal=False
    )  # fmt: skip
    group = LayerGroup(count=LAYERS, mixer=mixer, ffn=FeedForward(kind="gated", inner=INNER))
    return ModelSpec(
        id="crammed-bert", name="crammed BERT", kind="encoder", hidden=WIDTH, vocab=VOCABULARY,
        layers=(group,), max_context=128, tied_embeddings=True, source=like.source,
    )  # fmt: skip


@final
class CrammingRecipe(TrainingMethod):
    """What each part of the recipe gives within the budget, one on top of the other.

    Packing fills sequences that documents would leave padded; sparse prediction computes logits for
    the masked tokens alone; ramping the batch over the first part of the budget makes more updates
    of the same tokens. The architecture is the published one, whatever model is asked about; the
    micro-batch is the largest that fits. No loss is predicted: the project has no law of masked
    language modelling, and the paper's tokens per device were not at hand to compare with.

    References
    ----------
    Geiping and Goldstein 2022, Cramming: Training a Language Model on a Single GPU in One Day,
    arXiv 2212.14034; its published training configuration (batch 8,192, ramp 0.6, masks 0.25,
    triangle of 0.25).
    """

    title: ClassVar[str] = "packing, sparse prediction, batch ramp and one cycle in a day"
    reference: ClassVar[str] = "Cramming, arXiv 2212.14034"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "hours": (24.0, "time on the device"), "batch": (8192.0, "sequences of a full batch"),
        "ramp": (0.6, "share of the budget over which the batch grows, at most 1"),
        "masked": (0.25, "share of tokens that are predicted, at most 1"),
        "document": (400.0, "mean tokens of a document, lengths geometric"),
    }  # fmt: skip

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        s = settings | {k: min(settings[k], 1.0) for k in ("ramp", "masked")}
        length = min(setting.sequence_tokens, 128)
        model = crammed_bert(setting.model)
        one = evolve(setting.alone(), model=model, sequence_tokens=length)
        padded = filled(s["document"], length)
        records: list[dict[str, Any]] = []
        for name, text, masked, ramp in (
            ("as BERT", padded, 1.0, 0.0), ("packed", 1.0, 1.0, 0.0),
            ("sparse prediction", 1.0, s["masked"], 0.0),
            ("batch ramp", 1.0, s["masked"], s["ramp"]),
        ):  # fmt: skip
            micro, passes, update = micro_batch_s(one, masked)
            first = min(float(micro), s["batch"])
            plan = Ramp(seconds=s["hours"] * 3600.0, share=ramp, first=first, full=s["batch"],
                        sequence_s=passes / micro, update_s=update)  # fmt: skip
            tokens = plan.sequences() * length
            records.append({
                "recipe": name, "micro_batch": micro, "text_tokens_per_s": text * length * micro
                / passes, "text_tokens": tokens * text, "updates": plan.updates(),
                "tokens_per_parameter": tokens * text / model.parameters,
                "update_share": plan.updates() * update / plan.seconds,
            })  # fmt: skip
        first, last = records[0], records[-1]
        peak = s["hours"] * RISE
        return MethodReport(
            title=f"{model.name}, {model.parameters / 1e6:.0f}M parameters, on one "
            f"{one.device.name} for {s['hours']:g} hours",
            columns=("recipe", "micro_batch", "text_tokens_per_s", "text_tokens", "updates",
                     "tokens_per_parameter", "update_share"),
            records=records,
            conclusion=f"The recipe sees {last['text_tokens'] / first['text_tokens']:.2f} times "
            f"the text and makes {last['updates'] / first['updates']:.2f} times the updates; the "
            f"learning rate peaks after {peak:g} hours and ends at nothing.",
        )  # fmt: skip


def micro_batch_s(one: Setting, masked: float) -> tuple[int, float, float]:
    """The largest micro-batch that fits, the seconds of its passes, and of an update.

    Raises
    ------
    DoesNotFit
        If not even one sequence does.
    """
    recipe = Recipe()
    for micro in (1 << n for n in range(MOST_MICRO_BATCH.bit_length() - 1, -1, -1)):
        job = TrainingJob(model=one.model, global_batch=micro, sequence_tokens=one.sequence_tokens)
        plan = Plans.of([TrainingPlan(micro_batch=micro, zero=0)])
        parts = memory_parts(job, recipe, plan)
        # Logits of masked tokens alone.
        parts["logits"] = parts["logits"] * masked
        if total_bytes(parts)[0] > usable_bytes(one.device):
            continue
        step = StepPricer(job=job, recipe=recipe, device=one.device).price(plan)
        update = float(step.parts["optimizer"][0])
        unmasked = (1.0 - masked) * float(step.layer["head"][0])
        return micro, float(np.sum(step.seconds)) - update - unmasked, update
    raise DoesNotFit(
        f"Not one sequence of {one.sequence_tokens} tokens of {one.model.name} fits "
        f"{one.device.name}. Ask about a larger device.",
        needed_bytes=0.0, available_bytes=usable_bytes(one.device),
    )  # fmt: skip


METHOD = CrammingRecipe()
