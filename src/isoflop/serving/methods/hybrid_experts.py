"""Experts in host memory: computed there, or sent to the device."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ...cost.features import experts_touched
from ...cost.memory import MemoryPolicy
from ...cost.step import StepModel
from ...errors import InvalidInput
from ..method import Method, MethodReport

TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384)


@final
class HybridExperts(Method):
    """Where each expert runs when the device cannot hold them all.

    An expert that is not on the device costs either its transfer over the host link or its
    computation on the host: bytes over host memory bandwidth, or FLOP over the host's rate,
    whichever is longer. Fiddler takes the cheaper per expert and step. MoE-Lens batches so many
    tokens that every expert is sent once per step under the computation of the rest: its bound is
    tokens / max(all transfers, compute).

    References
    ----------
    Kamahori et al. 2024, Fiddler, arXiv 2402.07033. Yuan et al. 2025, MoE-Lens, arXiv 2504.09345.
    """

    title: ClassVar[str] = "experts in host memory: computed there, or sent to the device"
    reference: ClassVar[str] = "Fiddler, arXiv 2402.07033; MoE-Lens, arXiv 2504.09345"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "host_bandwidth": (2.0e11, "host memory bandwidth, bytes/s"),
        "host_flop": (2.0e12, "host rate in the weights' format, FLOP/s"),
        "host_efficiency": (0.6, "share of both that expert kernels reach"),
        "context": (512.0, "mean cached tokens of a sequence"),
    }

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        groups = [g for g in step.model.layers if g.ffn.kind == "moe"]
        if not groups:
            raise InvalidInput(f"{step.model.name} has no routed experts.")
        f = groups[0].ffn
        layers = sum(g.count for g in groups)
        fmt = step.plan.formats.of("experts")
        values = 3.0 * step.model.hidden * f.inner
        each = values * fmt.bytes_per_value
        every = each * f.experts * layers
        policy = MemoryPolicy()
        weights = sum(op.weight_bytes * op.count for op in step.operators if op.kind != "moe")
        usable = (step.device.memory.capacity_bytes - policy.driver_bytes) * policy.utilization
        held = float(np.clip((usable - weights - policy.reserve_bytes) / every, 0.0, 1.0))
        link = step.device.links.host_bytes_per_s
        efficiency = settings["host_efficiency"]
        records = []
        for tokens in TOKENS:
            touched = float(experts_touched(tokens, f.experts, f.experts_per_token))
            away = (1.0 - held) * touched * layers
            per = tokens * f.experts_per_token / max(touched, 1e-9)
            sent = each / link
            here = max(each / settings["host_bandwidth"],
                       2.0 * values * per / settings["host_flop"]) / efficiency  # fmt: skip
            device = float(step.decode_s(np.array(float(tokens)), np.array(settings["context"])))
            records.append({
                "tokens": tokens, "device_s": device, "all_sent_s": device + away * sent,
                "all_on_host_s": device + away * here,
                "fiddler_s": device + away * min(sent, here),
                "overlapped_s": max(device, away * sent),
                "tokens_per_s": tokens / (device + away * min(sent, here)),
                "bound_tokens_per_s": tokens / max(device, away * sent),
            })  # fmt: skip
        turn = next((r["tokens"] for r in records if r["all_sent_s"] < r["all_on_host_s"]), None)
        text = (
            f"The device holds {held:.0%} of the experts ({every / 2**30:.0f} GiB in all). "
            f"One sequence decodes at {records[0]['tokens_per_s']:.2f} tokens/s. "
            + (f"From {turn:,} tokens per step on, sending experts beats computing them on the "
               "host." if turn else "Computing on the host wins at every size here.")
            + f" Overlapping transfers and work, {TOKENS[-1]:,} tokens per step are bound at "
            f"{records[-1]['bound_tokens_per_s']:,.0f} tokens/s."
        )  # fmt: skip
        return MethodReport(
            title=f"{step.model.name} with experts in host memory",
            columns=("tokens", "device_s", "all_sent_s", "all_on_host_s", "fiddler_s",
                     "overlapped_s", "tokens_per_s", "bound_tokens_per_s"),
            records=records, conclusion=text,
        )  # fmt: skip


METHOD = HybridExperts()
