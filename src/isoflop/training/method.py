"""What a training method is: one paper's idea, priced for a model on a fleet."""

from __future__ import annotations

from abc import ABC, abstractmethod

from attrs import evolve, frozen

from .. import registry
from ..hardware import Accelerator, Cluster
from ..method import MethodReport, Named
from ..models import ModelSpec
from .fleet import network_of
from .plan import Plans, Recipe, TrainingJob, TrainingPlan
from .time import Network, StepPricer, StepTime

__all__ = [
    "MethodReport",
    "Setting",
    "TrainingMethod",
    "find_training_method",
    "training_method_names",
]  # fmt: skip

PACKAGE = "isoflop.training.methods"
NETWORK_SHARE = 0.8
"""Share of a link that a large ring collective reaches; estimate."""


@frozen(kw_only=True)
class Setting:
    """A model on a fleet."""

    model: ModelSpec
    device: Accelerator
    count: int = 1
    cluster: Cluster | None = None
    sequence_tokens: int = 2048

    @property
    def network(self) -> Network:
        """Links of the fleet."""
        return network_of(self.device, self.cluster, max(self.count, 2))

    @property
    def peak_flop_per_s(self) -> float:
        """Dense 16-bit rate of one device."""
        rates = self.device.rates.dense_flop_per_s
        return rates.get("bf16") or rates.get("fp16") or max(rates.values())

    def step(self, plan: TrainingPlan, global_batch: int, recipe: Recipe | None = None) -> StepTime:
        """Price one step, memory aside."""
        job = TrainingJob(
            model=self.model, global_batch=global_batch, sequence_tokens=self.sequence_tokens
        )
        pricer = StepPricer(
            job=job, recipe=recipe or Recipe(), device=self.device, cluster=self.cluster
        )
        return pricer.price(Plans.of([plan]))

    def compute_s(self, sequences: int = 1, recompute: str = "none") -> float:
        """Seconds of forward and backward over `sequences` sequences on one device."""
        plan = TrainingPlan(micro_batch=sequences, recompute=recompute)  # type: ignore[arg-type]
        parts = self.step(plan, sequences).parts
        return float(sum(parts[k][0] for k in ("forward", "backward", "recompute")))

    def all_reduce_s(self, payload_bytes: float) -> float:
        """Seconds of a ring all-reduce over the fleet's slowest links."""
        net = self.network
        inside = self.count <= net.node
        speed = (
            net.inner_bytes_per_s if inside else net.outer_bytes_per_s * min(net.node, self.count)
        )  # a ring enters a node through all of its adapters
        latency = net.inner_latency_s if inside else net.outer_latency_s
        moved = 2.0 * payload_bytes * (self.count - 1) / self.count
        return moved / (speed * NETWORK_SHARE) + 2.0 * (self.count - 1) * latency

    def alone(self) -> Setting:
        """The same on one device."""
        return evolve(self, count=1, cluster=None)


class TrainingMethod(Named, ABC):
    """A method, one file each in `isoflop/training/methods/` defining `METHOD`."""

    @abstractmethod
    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        """What the method does for a model on a fleet under complete settings."""


def find_training_method(name: str) -> TrainingMethod:
    """The method called `name`; `UnknownName` with suggestions otherwise."""
    return registry.find(PACKAGE, name, "METHOD", "training method")


def training_method_names() -> tuple[str, ...]:
    """Names of every training method."""
    return registry.names(PACKAGE)
