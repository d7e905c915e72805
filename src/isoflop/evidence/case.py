"""A published measurement as a question the engine can answer, or a reason why it cannot."""

from __future__ import annotations

import math
from typing import Literal

from attrs import evolve, field, frozen

from ..plans import Formats, Plan
from .names import precision as known_precision

Role = Literal["fit", "check"]


@frozen(kw_only=True)
class Arrivals:
    """Timed arrivals of a run, and the engine's limits."""

    requests: int
    requests_per_s: float
    max_sequences: int = 256
    max_tokens: int = 8192


@frozen(kw_only=True)
class Protocol:
    """One load generator's run.

    Attributes
    ----------
    rounds : float
        Requests per client; 0 where it is not known.
    shortest : float
        Shortest length over the longest, lengths being uniform between; 1 for equal lengths.
    wait_steps : float
        Decoding steps a prompt waits, on average, for a scheduler told to look or to start
        prompts only now and then.
    drafts : int
        Tokens proposed and verified per sequence and step; 0 without speculation.
    acceptance : float
        Chance, 0 to 1, that a proposed token is accepted given all before it were.
    served : bool
        Whether requests go through a server; an offline benchmark calls the engine itself.
    """

    rounds: float = 0.0
    shortest: float = 1.0
    wait_steps: float = 0.0
    drafts: int = 0
    acceptance: float = 0.0
    served: bool = True

    @property
    def tokens_per_step(self) -> float:
        """Tokens a sequence gains per step: 1 + a + ... + a^drafts."""
        return sum(self.acceptance**i for i in range(self.drafts + 1))

    @property
    def mean_length(self) -> float:
        """Mean length over the longest."""
        return (1.0 + self.shortest) / 2.0


@frozen(kw_only=True)
class Case:
    """One row of a measurement file.

    Attributes
    ----------
    line : int
        Line in the file, the header being line 1.
    source : str
        Who published it, one group of the summary.
    metric : str
    measured : float
        In the metric's SI unit (seconds, tokens per second, watts, bytes).
    role : {"fit", "check"}
        Whether any parameter was fitted on its source.
    reason : str
        Why it cannot be priced; empty if it can.
    model, device, engine : str
        Catalog names.
    release : str
        The engine's version, where the source states it.
    concurrency : float or None
        Closed-loop clients, or the size of a static batch; None: as many as memory holds.
    mode : str
        closed: continuous batching with closed-loop clients; static: one batch from start to end;
        single: one prompt; prompts: full steps of prompts; pieces: one prompt in passes of
        `concurrency` tokens; open: timed arrivals; capacity: cache size.
    """

    line: int
    source: str
    metric: str
    measured: float
    role: Role = "check"
    reason: str = ""
    model: str = ""
    device: str = ""
    engine: str = ""
    release: str = ""
    plan: Plan = field(factory=Plan)
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    concurrency: float | None = 1.0
    mode: Literal["closed", "static", "single", "prompts", "pieces", "open", "capacity"] = "closed"
    arrivals: Arrivals | None = None
    utilization: float = 0.9
    replicas: float = 1.0
    training: object | None = None
    """A training row's question (`training_rows.TrainingQuestion`); None for serving."""
    running: float | None = None
    """Mean running batch, where the source states it."""
    output_cv: float = 0.0
    """Standard deviation of the output lengths over their mean."""
    protocol: Protocol = field(factory=Protocol)
    """How its load generator ran."""
    otherwise: Protocol | None = None
    """How else it may have run, where the source made both runs and the row is of either."""
    mixed: bool = False
    """Prompts share their steps with decoding sequences (chunked prefill)."""


@frozen(kw_only=True)
class Prediction:
    """What isoflop says of one case.

    Attributes
    ----------
    predicted, low, high : float or None
        None where the row cannot be priced; low and high bound a 90% interval.
    label : str
        measured, interpolated or analytic.
    reason : str
        Why not, in words.
    naive : float
        What the metric is proportional to under one constant efficiency; 1 where the baseline is
        a constant.
    """

    case: Case
    naive: float = 1.0
    predicted: float | None = None
    low: float | None = None
    high: float | None = None
    label: str = ""
    reason: str = ""


def as_run(case: Case, protocol: Protocol) -> Case:
    """The case with its load generator's run, and with mean lengths for the longest."""
    mean = protocol.mean_length
    return evolve(
        case, protocol=protocol, prompt_tokens=case.prompt_tokens * mean,
        output_tokens=case.output_tokens * mean,
        output_cv=(1.0 - protocol.shortest) / (2.0 * mean) / math.sqrt(3.0),
    )  # fmt: skip


def weight_formats(precision: str, model: str, experts: str = "") -> Formats:
    """Formats a published checkpoint of `precision` really has.

    Published 4-bit checkpoints of mixture models quantise the experts and keep attention at
    16 bits; dense ones quantise every linear layer.
    """
    p = precision.strip().lower().rstrip("?")
    p = known_precision(p) if p else p
    p = {"": "bf16", "nan": "bf16", "f16": "fp16", "fp4": "nvfp4", "int4": "int4-g128"}.get(p, p)
    if p in ("bf16", "fp16"):
        return Formats(weights="bf16")
    low = model.lower()
    if "gpt-oss" in low:
        return Formats(weights="bf16", experts="mxfp4")
    if p.startswith("int4") and "kimi" in low:
        return Formats(weights="bf16", experts="int4-g128")
    e = experts.strip().lower()
    if any(name in low for name in ("deepseek", "kimi", "qwen3.5")) and p in ("fp8", "nvfp4"):
        # Their 8-bit checkpoints scale by blocks; their 4-bit ones keep attention wider.
        attention = "fp8-block" if p == "fp8" else "bf16"
        return Formats(weights=attention, experts="nvfp4" if p == "nvfp4" else "fp8-block")
    return Formats(weights=p, experts=e if e and e not in ("nan", p) else "")
