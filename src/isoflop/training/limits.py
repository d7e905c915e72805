"""Published verdicts on what trains and what runs out of memory, and what the planner says of them.

An entry fixes everything but one size: the model's parameters (by depth), the micro-batch or the
sequence. Its source names sizes that ran, sizes that did not, or the largest that did.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Literal

import numpy as np
from attrs import evolve, field, frozen

from .. import catalog
from ..errors import InvalidInput, UnknownName
from ..hardware import Accelerator, load_accelerator
from ..models import FeedForward, LayerGroup, Mixer, ModelSpec, load_model
from ..provenance import Source
from .memory import HOST_SHARE, memory_parts, stage_parameters, total_bytes, usable_bytes
from .offload import away_parts
from .plan import Plans, Recipe, TrainingJob, TrainingPlan
from .plan_text import fill_data, parse_training_plan

KIND = "limits"
Scale = Literal["parameters", "micro_batch", "sequence"]
SEQUENCE_STEP = 128
"""Tokens by which the longest sequence is searched."""
IMPLIED = 2.0
"""A size this often the largest that ran is taken to have run out of memory, where the source names
the largest and no failure."""
MOST_STEPS = 1 << 24
WORDS = {"parameters": "parameters", "micro_batch": "sequences", "sequence": "tokens"}


@frozen(kw_only=True)
class Shape:
    """A GPT- or Llama-like decoder that the catalog does not hold.

    Attributes
    ----------
    layers : int
        0 where an entry's size sets them.
    kv_heads, inner : int
        0: as many as heads; four times the width.
    """

    layers: int = 0
    hidden: int
    heads: int
    kv_heads: int = 0
    inner: int = 0
    vocab: int
    positions: int = 0
    gated: bool = False
    tied: bool = True

    def model(self, layers: int) -> ModelSpec:
        """The model of so many layers."""
        mixer = Mixer(
            kind="attention", heads=self.heads, kv_heads=self.kv_heads or self.heads,
            head_dim=self.hidden // self.heads, qkv_bias=not self.gated, out_bias=not self.gated,
        )  # fmt: skip
        ffn = FeedForward(
            kind="gated" if self.gated else "plain", inner=self.inner or 4 * self.hidden,
            bias=not self.gated,
        )  # fmt: skip
        group = LayerGroup(count=layers, mixer=mixer, ffn=ffn, norm_bias=not self.gated)
        return ModelSpec(
            id="shape", name=f"{layers} layers of width {self.hidden}", hidden=self.hidden,
            vocab=self.vocab, layers=(group,), positions=self.positions,
            tied_embeddings=self.tied, max_context=1 << 24, source="shape",
        )  # fmt: skip


@frozen(kw_only=True)
class Limit:
    """One recipe with sizes that ran and sizes that ran out of memory.

    Attributes
    ----------
    model, shape
        A catalog id, or the shape itself; one of the two.
    device : str
        Catalog id; `devices` of them, filled by data parallelism.
    sequence_tokens, global_batch : int
        Sequence, where it is not the size; sequences per step, 0 for one micro-batch per replica.
    plan : str
        As `isoflop plan --plan` reads it; the size replaces its micro-batch where it is one.
    scale : {"parameters", "micro_batch", "sequence"}
        What `fits` and `fails` count.
    fits, fails : tuple of float
        Sizes that ran, and that ran out of memory, as the source says.
    largest : bool
        Whether the source calls the last of `fits` the largest that ran.
    unstated : bool
        Whether the source does not say that `fails` failed: a result is missing that was asked for.
    host_memory_bytes : float
        Host memory there is for each device; 0: not stated, and not judged.
    assumed : str
        What the source leaves out, and what was taken instead.
    """

    name: str
    model: str = ""
    shape: Shape | None = None
    device: str
    devices: int = 1
    sequence_tokens: int = field(metadata={"plain": True})
    global_batch: int = 0
    plan: str
    recipe: Recipe = field(factory=Recipe)
    scale: Scale
    fits: tuple[float, ...] = ()
    fails: tuple[float, ...] = ()
    largest: bool = False
    unstated: bool = False
    host_memory_bytes: float = 0.0
    assumed: str = ""
    note: str = ""
    source: str

    def __attrs_post_init__(self) -> None:
        if bool(self.model) == (self.shape is not None):
            raise InvalidInput("give a model of the catalog or a shape, one of the two")
        if not self.fits + self.fails:
            raise InvalidInput("name at least one size that ran or that did not")
        if self.largest and not self.fits:
            raise InvalidInput("the largest that ran must be among the sizes that fit")
        if self.scale == "parameters" and self.shape is None:
            raise InvalidInput("a limit in parameters needs a shape, whose depth is the size")


@frozen(kw_only=True)
class PublishedLimits:
    """One source and its limits."""

    id: str
    name: str
    limits: tuple[Limit, ...]
    sources: dict[str, Source]

    def citation(self, limit: Limit) -> str:
        """Where a limit stands."""
        s = self.sources[limit.source]
        return f"{s.title}, {s.locator}"


@frozen(kw_only=True)
class Verdict:
    """What a source says of one size, and what the planner does.

    Attributes
    ----------
    ran : bool
        As published; `implied` where a failure is not stated: it follows from "the largest", or
        a result is missing.
    needed_bytes, usable_bytes : float
        Of the place that is short, or of the device.
    place : {"device", "host memory"}
    fits, textbook_fits : bool
        What the planner says, and what `textbook_bytes` against the capacity do.
    """

    size: float
    ran: bool
    implied: bool
    needed_bytes: float
    usable_bytes: float
    place: str
    fits: bool
    textbook_fits: bool

    @property
    def met(self) -> bool:
        """Whether the planner agrees."""
        return self.fits == self.ran


@frozen(kw_only=True)
class Judged:
    """One limit with its verdicts.

    Attributes
    ----------
    predicted, textbook : float
        Largest size that fits, of the planner and by `textbook_bytes`; 0 where the source names
        no largest, infinity where nothing limits it.
    """

    limit: Limit
    verdicts: tuple[Verdict, ...]
    predicted: float = 0.0
    textbook: float = 0.0

    @property
    def ratio(self) -> float:
        """Predicted over published largest size."""
        return self.predicted / max(self.limit.fits)

    @property
    def textbook_ratio(self) -> float:
        """The same of `textbook_bytes`."""
        return self.textbook / max(self.limit.fits)


@frozen(kw_only=True)
class Tally:
    """Verdicts of one source, counted.

    Attributes
    ----------
    ran, failed, implied : (int, int)
        Verdicts met, and how many there are: of sizes that ran, that the source says did not, and
        whose failure is implied.
    ratio : float
        Median of predicted over published largest size; nan where no largest is named.
    textbook_ran, textbook_failed, textbook_implied, textbook_ratio
        The same by 16 bytes per parameter.
    """

    name: str
    ran: tuple[int, int]
    failed: tuple[int, int]
    implied: tuple[int, int]
    ratio: float
    textbook_ran: int
    textbook_failed: int
    textbook_implied: int
    textbook_ratio: float


def published_limits() -> tuple[PublishedLimits, ...]:
    """Every source of the catalog, by id."""
    return tuple(catalog.load_all(KIND, PublishedLimits))


def find_limits(name: str) -> PublishedLimits:
    """A source by id.

    Raises
    ------
    UnknownName
        If there is none of that name; the nearest names are listed.
    """
    for source in published_limits():
        if name.lower() == source.id:
            return source
    raise UnknownName("source of limits", name, [s.id for s in published_limits()],
                      "See `isoflop training limits`.")  # fmt: skip


def model_of(limit: Limit, size: float) -> ModelSpec:
    """The model at a size: of the depth nearest to it where parameters are the scale."""
    if limit.shape is None:
        return load_model(limit.model)
    if limit.scale != "parameters":
        return limit.shape.model(limit.shape.layers)
    one, two = (limit.shape.model(n).parameters for n in (1, 2))
    return limit.shape.model(max(1, round((size - one) / (two - one)) + 1))


def question(limit: Limit, size: float) -> tuple[TrainingJob, TrainingPlan]:
    """The job and plan of a size."""
    plan = fill_data(parse_training_plan(limit.plan), limit.devices)
    tokens = limit.sequence_tokens
    if limit.scale == "micro_batch":
        plan = evolve(plan, micro_batch=int(size))
    elif limit.scale == "sequence":
        tokens = int(size)
    batch = limit.global_batch or plan.data * plan.micro_batch
    job = TrainingJob(model=model_of(limit, size), global_batch=batch, sequence_tokens=tokens)
    return job, plan


def judge_size(limit: Limit, size: float) -> tuple[str, float, float]:
    """The place that decides, bytes needed there and bytes usable.

    The device, unless it has room and host memory, where stated, has not.
    """
    job, plan = question(limit, size)
    plans, device = Plans.of([plan]), load_accelerator(limit.device)
    needed = float(total_bytes(memory_parts(job, limit.recipe, plans))[0])
    usable = usable_bytes(device)
    if needed <= usable and limit.host_memory_bytes:
        host = sum(float(v[0]) for v in away_parts(job, limit.recipe, plans)[0].values())
        room = HOST_SHARE * limit.host_memory_bytes
        if host > room:
            return "host memory", host, room
    return "device", needed, usable


def textbook_bytes(job: TrainingJob, recipe: Recipe, plan: TrainingPlan) -> float:
    """The dumb baseline: model states alone, of 2 bytes of weights, 2 of gradients and 12 of state.

    Each divided as its ZeRO stage says, without what is offloaded, and nothing else (Rajbhandari et
    al. 2020, section 3.1).
    """
    plans = Plans.of([plan])
    held = float(np.sum(stage_parameters(job, recipe, plans), axis=0)[0])
    parts = ((2.0, 3, plan.offload_weights != "none"), (2.0, 2, recipe.state_is_away),
             (12.0, 1, recipe.state_is_away))  # fmt: skip
    ranks = float(plans.shard[0])
    return sum(
        0.0 if away else held * each / (ranks if plan.zero >= stage else 1.0)
        for each, stage, away in parts
    )


def textbook_fits(limit: Limit, size: float, device: Accelerator) -> bool:
    """Whether model states alone are less than the device's nominal capacity."""
    job, plan = question(limit, size)
    return textbook_bytes(job, limit.recipe, plan) <= device.memory.capacity_bytes


def _fits(limit: Limit, size: float) -> bool:
    _, needed, usable = judge_size(limit, size)
    return needed <= usable


def _sizes(limit: Limit) -> Iterator[tuple[float, bool, bool]]:
    """Sizes with whether they ran, and whether that is implied."""
    for size in limit.fits:
        yield size, True, False
    for size in limit.fails:
        yield size, False, limit.unstated
    if limit.largest and not limit.fails:
        yield IMPLIED * max(limit.fits), False, True


def _grid(limit: Limit, step: int) -> float:
    """The size of one step of the search: layers, sequences, or blocks of tokens."""
    if limit.scale == "parameters":
        assert limit.shape is not None
        return float(limit.shape.model(step).parameters)
    if limit.scale == "sequence":
        plan = parse_training_plan(limit.plan)
        return float(step * SEQUENCE_STEP * plan.context)
    return float(step)


def largest_size(limit: Limit, *, textbook: bool = False) -> float:
    """The largest size that fits, by bisection, as memory grows with each; 0 for none."""
    device = load_accelerator(limit.device)

    def good(step: int) -> bool:
        size = _grid(limit, step)
        return textbook_fits(limit, size, device) if textbook else _fits(limit, size)

    if textbook and limit.scale != "parameters":
        return float("inf") if good(1) else 0.0
    low, high = 0, 1
    while high < MOST_STEPS and good(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return _grid(limit, low) if low else 0.0


def judge(limit: Limit) -> Judged:
    """Every verdict on a limit, and the largest size where the source names one."""
    device = load_accelerator(limit.device)
    verdicts = []
    for size, ran, implied in _sizes(limit):
        place, needed, usable = judge_size(limit, size)
        verdicts.append(Verdict(
            size=size, ran=ran, implied=implied, place=place, needed_bytes=needed,
            usable_bytes=usable, fits=needed <= usable,
            textbook_fits=textbook_fits(limit, size, device),
        ))  # fmt: skip
    if not limit.largest:
        return Judged(limit=limit, verdicts=tuple(verdicts))
    return Judged(limit=limit, verdicts=tuple(verdicts), predicted=largest_size(limit),
                  textbook=largest_size(limit, textbook=True))  # fmt: skip


def tally(name: str, judged: list[Judged]) -> Tally:
    """Verdicts met on each side, and the median ratio of largest sizes."""
    ran = [v for j in judged for v in j.verdicts if v.ran]
    failed = [v for j in judged for v in j.verdicts if not v.ran and not v.implied]
    implied = [v for j in judged for v in j.verdicts if v.implied]
    limits = [j for j in judged if j.limit.largest]

    def median(values: list[float]) -> float:
        return statistics.median(values) if values else float("nan")

    return Tally(
        name=name, ran=_met(ran), failed=_met(failed), implied=_met(implied),
        ratio=median([j.ratio for j in limits]),
        textbook_ran=sum(v.textbook_fits for v in ran),
        textbook_failed=sum(not v.textbook_fits for v in failed),
        textbook_implied=sum(not v.textbook_fits for v in implied),
        textbook_ratio=median([j.textbook_ratio for j in limits]),
    )  # fmt: skip


def _met(verdicts: list[Verdict]) -> tuple[int, int]:
    return sum(v.met for v in verdicts), len(verdicts)
