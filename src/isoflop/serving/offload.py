"""A mixture of experts whose experts live in host memory: bytes, places and rates."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ..cost.features import Array, Batch
from ..cost.memory import MemoryPolicy
from ..cost.operators.base import Builder, Operator
from ..cost.step import StepModel
from ..errors import InvalidInput

LINK_SHARE = 0.61
"""Share of a host link's rate that copies of whole experts reach: 19.5 GB/s of PCIe 4.0 x16, as
MoE-Lens measured on its A40. Others: 19.4 GB/s on an RTX A6000, 24 on an RTX 6000 Ada."""
COPY_S = 20e-6
"""Start of one small copy between host and device, with its synchronisation: an estimate."""


@frozen(kw_only=True, eq=False)
class HostExperts:
    """What of a step happens where.

    Attributes
    ----------
    step : StepModel
    layers, experts, per_token : int
        Routed layers, experts of each, and experts of a token.
    expert_bytes : float
        Weights of one expert.
    values : float
        Weights of one expert as a count.
    resident : int
        Experts that fit on the device beside everything else, over all layers.
    link_bytes_per_s : float
        From host to device, as reached.
    host_bytes_per_s, host_flop_per_s : float
        Host memory bandwidth and rate, as expert kernels reach them.
    """

    step: StepModel
    layers: int
    experts: int
    per_token: int
    expert_bytes: float
    values: float
    resident: int
    link_bytes_per_s: float
    host_bytes_per_s: float
    host_flop_per_s: float

    @classmethod
    def of(
        cls, step: StepModel, *, link_bytes_per_s: float = 0.0, host_bytes_per_s: float,
        host_flop_per_s: float,
    ) -> HostExperts:  # fmt: skip
        """The placement that fills the device with experts.

        Parameters
        ----------
        link_bytes_per_s : float
            Reached rate of the host link; 0: `LINK_SHARE` of the catalog's.

        Raises
        ------
        InvalidInput
            If the model has no routed experts, or its other weights do not fit.
        """
        groups = [g for g in step.model.layers if g.ffn.kind == "moe"]
        if not groups:
            raise InvalidInput(
                f"{step.model.name} has no routed experts to keep in host memory. Choose a "
                "mixture of experts, such as mixtral-8x7b."
            )
        f = groups[0].ffn
        layers = sum(g.count for g in groups)
        values = 3.0 * step.model.hidden * f.inner
        each = values * step.plan.formats.of("experts").bytes_per_value
        policy = MemoryPolicy()
        rest = sum(op.weight_bytes * op.count for op in step.operators if op.kind != "moe")
        usable = (step.device.memory.capacity_bytes - policy.driver_bytes) * policy.utilization
        free = usable - rest - policy.reserve_bytes
        if free < 2 * each:
            raise InvalidInput(
                f"{step.model.name} needs {rest / 2**30:.1f} GiB on {step.device.name} beside its "
                f"experts and room for two of them; {usable / 2**30:.1f} GiB are usable. Use a "
                "larger device or narrower weights (--weights)."
            )
        return cls(
            step=step, layers=layers, experts=f.experts, per_token=f.experts_per_token,
            expert_bytes=each, values=values,
            resident=int(min(layers * f.experts, free // each)),
            link_bytes_per_s=link_bytes_per_s or LINK_SHARE * step.device.links.host_bytes_per_s,
            host_bytes_per_s=host_bytes_per_s, host_flop_per_s=host_flop_per_s,
        )  # fmt: skip

    @property
    def all_bytes(self) -> float:
        """Weights of all experts."""
        return self.expert_bytes * self.experts * self.layers

    @property
    def send_s(self) -> float:
        """Seconds to copy one expert to the device."""
        return self.expert_bytes / self.link_bytes_per_s

    def host_s(self, tokens: Array) -> Array:
        """Seconds the host computes one expert for `tokens` tokens; nothing for none.

        The longer of reading the weights and the operations.
        """
        n = np.asarray(tokens, float)
        work = np.maximum(
            self.expert_bytes / self.host_bytes_per_s, 2.0 * self.values * n / self.host_flop_per_s
        )
        return np.where(n > 0, work, 0.0)

    def activation_s(self, tokens: Array) -> Array:
        """Seconds to copy the activations of `tokens` tokens one way."""
        return COPY_S + np.asarray(tokens, float) * self.step.model.hidden * 2.0 / (
            self.link_bytes_per_s
        )

    def other_s(self, batch: Batch) -> Array:
        """Seconds of a step's work outside the experts, by layer."""
        times = self.step.operator_s(batch)
        return times[[op.kind != "moe" for op in self.step.operators]].sum(axis=0) / self.layers

    def device_s(self, tokens: Array) -> Array:
        """Seconds the device computes one expert for `tokens` tokens; nothing for none.

        Expert by expert these are plain matrix products, not the fused kernel of engines that hold
        all experts.
        """
        n = np.asarray(tokens, float)
        batch = Batch(prefill_sequences=np.ones(n.shape), prefill_tokens=np.maximum(n, 1.0))
        work = sum((self.step.timer.seconds(op, batch) for op in self._products), np.zeros(n.shape))
        return np.where(n > 0, work, 0.0)

    @property
    def _products(self) -> list[Operator]:
        """Gate and up projection of one expert, and its down projection."""
        builder = Builder(model=self.step.model, plan=self.step.plan)
        hidden, inner = self.step.model.hidden, self.values / 3.0 / self.step.model.hidden
        builder.gemm("gate and up", "feed-forward", 1, 2 * inner, hidden, role="experts")
        builder.gemm("down", "feed-forward", 1, hidden, inner, role="experts")
        return builder.operators


def routed(tokens: int, experts: int, per_token: int, rng: np.random.Generator) -> Array:
    """Tokens of each expert of a layer under uniform routing, at random.

    Each token visits `per_token` different experts; of many tokens the counts are drawn as
    independent binomials, whose sum is off by the square root of their number.
    """
    if tokens * experts <= 1 << 16:
        order = rng.random((tokens, experts)).argsort(axis=1)[:, :per_token]
        return np.bincount(order.ravel(), minlength=experts).astype(float)
    return rng.binomial(tokens, per_token / experts, experts).astype(float)
