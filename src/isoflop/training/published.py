"""Published training runs, and the one nearest to a plan."""

from __future__ import annotations

import math

from attrs import field, frozen

from .. import catalog
from ..hardware import load_accelerator
from ..provenance import Source

KIND = "runs"


@frozen(kw_only=True)
class PublishedRun:
    """One run, with the figure its authors state.

    Attributes
    ----------
    parameters, active_parameters : float
    device : str
        Catalog id; `devices` of them, 0 where not stated.
    model_flop_utilization, hardware_flop_utilization : float
        As stated, 0 where not; the second counts recomputation.
    tokens_per_s_per_device : float
        From stated device hours, failures and restarts included; 0 where not.
    """

    id: str
    name: str
    parameters: float
    active_parameters: float
    device: str
    devices: int
    sequence_tokens: int = field(metadata={"plain": True})
    plan: str
    model_flop_utilization: float = 0.0
    hardware_flop_utilization: float = 0.0
    tokens_per_s_per_device: float = field(default=0.0, metadata={"plain": True})
    source: str
    note: str = ""
    sources: dict[str, Source] = field(factory=dict)

    @property
    def figure(self) -> str:
        """What its authors report, in words."""
        if self.model_flop_utilization:
            return f"MFU {self.model_flop_utilization:.1%}"
        if self.hardware_flop_utilization:
            return f"{self.hardware_flop_utilization:.1%} of peak with recomputation counted"
        share = self._share()
        rate = f"{self.tokens_per_s_per_device:,.0f} tokens/s per device"
        return f"{rate} ({share:.0%} of peak as 6ND)"

    def _share(self) -> float:
        rates = load_accelerator(self.device).rates.dense_flop_per_s
        peak = rates.get("bf16") or rates["fp16"]
        return 6.0 * self.active_parameters * self.tokens_per_s_per_device / peak

    def citation(self) -> str:
        """Where the figure stands."""
        s = self.sources[self.source]
        return f"{s.title}, {s.locator}"


def published_runs() -> tuple[PublishedRun, ...]:
    """Every run of the catalog, by id."""
    return tuple(catalog.load_all(KIND, PublishedRun))


def nearest_run(
    parameters: float, active_parameters: float, device: str, devices: int, sequence_tokens: int
) -> PublishedRun:
    """The run with the least distance in logarithms of size, work per token, fleet and length.

    Another device family counts as an eightfold difference, another device of the family as a
    twofold one.
    """
    mine = load_accelerator(device)

    def distance(run: PublishedRun) -> float:
        theirs = load_accelerator(run.device)
        kind = 0.0 if theirs.id == mine.id else 1.0 if theirs.family == mine.family else 3.0
        terms = (
            math.log2(run.parameters / parameters),
            math.log2(run.active_parameters / active_parameters),
            0.5 * math.log2(run.devices / devices) if run.devices else 0.0,
            0.5 * math.log2(run.sequence_tokens / sequence_tokens),
            kind,
        )
        return math.hypot(*terms)

    return min(published_runs(), key=distance)
