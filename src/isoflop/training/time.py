"""Seconds of one optimizer step, by part, for any number of plans at once.

A stage's time per micro-batch is its layers' compute, the collectives inside them that nothing
hides, and what is recomputed. The pipeline adds its bubble in closed form, in units of one
micro-batch through one stage, F forward, B backward, W of it the weights' share (p stages, v
chunks, m micro-batches):

    GPipe, 1F1B     (p - 1)(F + B)            Huang et al. 2019; Narayanan et al. 2021
    interleaved     (p - 1)(F + B) / v        Narayanan et al. 2021, section 2.2
    zero-bubble     (p - 1)(F + B - 2 W)      Qi et al. 2023 (ZB1P, as in DeepSeek-V3, table 2)
    DualPipe        (p / 2 - 1)(F + 2 B - 3 W)  DeepSeek-V3, table 2, F beside B counted as F + B

Interleaved stages of unequal size are in `isoflop.training.chunks`.

Data-parallel gradients and weights travel beside the last micro-batch's backward and the next
forward; the rest of them is exposed.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from attrs import define, evolve, field, frozen

from ..cost.features import Array
from ..formats import load_format
from ..hardware import Accelerator, Cluster
from ..models import LayerGroup
from .activations import ALTERNATE, FULL, SELECTIVE, layer_shape
from .calibration import TrainingCalibration, load_training
from .chunks import bubble_s, interleaved_unevenly
from .compression import sent_bytes
from .compute import ComputeTable, Network, expert_kernels
from .fleet import network_of, slow_clock
from .memory import key_value_width, micro_batches, query_width, stage_layers, stage_parameters
from .offload import outlasting_s
from .placement import by_placement, data_stride, owner_stride, stage_ranks
from .plan import SCHEDULES, Plans, Recipe, TrainingJob
from .rings import LAUNCH_S, Rings
from .stages import layers_at, uneven
from .transfers import transfer_s
from .update import OPTIMIZER_BANDWIDTH_SHARE, compression_s, least_optimizer_s, optimizer_s

PARTS = (
    "forward", "backward", "recompute", "tensor", "context", "experts", "weights", "offload",
    "bubble", "transfer", "gradients", "optimizer", "host",
)  # fmt: skip
"""Compute three ways, exposed communication by its parallelism, pipeline, optimizer and host."""


@frozen(kw_only=True)
class StepTime:
    """Seconds by part and their sum; arrays of the plans' shape.

    Attributes
    ----------
    parts : dict of str to array
        See PARTS.
    seconds : array
    micro_batches : array
    hardware_flop : array
        FLOP per device and step that the plan executes, recomputation included.
    layer : dict of str to array
        Seconds of one micro-batch through one layer, collectives that nothing hides included:
        forward, backward (with recomputation), weight; and head (with embedding), both ways.
    """

    parts: dict[str, Array]
    seconds: Array
    micro_batches: Array
    hardware_flop: Array
    layer: dict[str, Array]


@define(kw_only=True, slots=False, eq=False)
class StepPricer:
    """Prices steps of one job and recipe on one fleet.

    Attributes
    ----------
    count : int
        Devices of the fleet.
    """

    job: TrainingJob
    recipe: Recipe
    device: Accelerator
    cluster: Cluster | None = None
    calibration: TrainingCalibration = field(default=None)  # type: ignore[assignment]
    network: Network | None = None

    def __attrs_post_init__(self) -> None:
        if self.calibration is None:
            self.calibration = load_training(self.device.family)[0]
        self.table = ComputeTable(job=self.job, recipe=self.recipe, device=self.device)

    def price(self, plans: Plans) -> StepTime:
        """Seconds of every plan's step."""
        return Pricing(self, plans).run()

    def floor_s(self, plans: Plans) -> Array:
        """Seconds that no ZeRO stage, shard or mix of recomputed layers takes a plan below.

        Gradient and weight traffic left out, state sharded over all ranks. It never falls with
        more recomputation.
        """
        ranks = plans.data * plans.context
        lean = evolve(plans, zero=np.where(ranks > 1, 1, 0), shard=ranks,
                      full_layers=np.zeros_like(plans.zero),
                      offload_layers=np.zeros_like(plans.zero),
                      offload_weights=np.zeros_like(plans.zero))  # fmt: skip
        return (1.0 - 1e-9) * Pricing(self, lean).run(gradients=False).seconds  # rounding


class Pricing:
    """One evaluation: intermediate arrays of one batch of plans.

    `run` may be called again after `cal` is replaced, which is how parameters are fitted.
    """

    def __init__(self, pricer: StepPricer, plans: Plans):
        self.r, self.job, self.plans = pricer.recipe, pricer.job, plans
        self.cal, self.device, self.cluster = pricer.calibration, pricer.device, pricer.cluster
        self.columns = pricer.table.columns(plans)
        if self.r.imbalance > 1.0:
            # All wait for the fullest expert rank.
            for name in ("experts_f", "experts_d", "experts_w", "around_f", "around_d"):
                self.columns[name] = self.columns[name] * self.r.imbalance
        self.shape = layer_shape(pricer.job.model, pricer.recipe)
        devices = plans.tensor * plans.pipeline * plans.data * plans.context
        self.net = pricer.network or network_of(
            self.device, self.cluster, int(devices.max()) if len(plans) else 1
        )
        self.devices = devices
        self.m = micro_batches(pricer.job, plans)
        self.layers = stage_layers(pricer.job, pricer.recipe, plans)
        self.tokens = plans.micro_batch * pricer.job.sequence_tokens / plans.context
        self.sent = sent_bytes(self.r.gradient_exchange, self.job.model, plans.tensor)
        self.bits = load_format(pricer.recipe.format).bits
        self.held = stage_parameters(pricer.job, pricer.recipe, plans)
        full = plans.recompute == FULL
        # Share of the fullest stage's layers that run forward twice.
        self.whole = np.where(full, 1.0, np.minimum(plans.full_layers / self.layers, 1.0))

    def run(self, *, gradients: bool = True) -> StepTime:
        """Seconds of every plan's step; without `gradients`, their exchange is left out."""
        self.slow_clock = slow_clock(self.device, self.cal)
        self.rings = Rings(net=self.net, cal=self.cal)
        forward, dgrad, wgrad, again = self._compute()
        tensor = self._tensor()
        context = self._context()
        experts = self._experts()
        rounds = 2.0 + self.whole
        compute = forward + dgrad + wgrad + again
        anew = 1.0 - self.whole if "moe" in self.r.recompute_modules else 0.0
        inside = (
            tensor * rounds + self._skew(compute), context * rounds, experts * (rounds + anew)
        )  # fmt: skip
        hidden = sum(inside)
        idle = self._idle(compute if self.r.traced else compute + hidden)
        weights_f, weights_b = self._gathered(forward + hidden / rounds, dgrad + wgrad + again)
        weights = weights_f + weights_b
        away_f, away_b = outlasting_s(
            self.job, self.r, self.plans, self.device, self.cluster, self.net.node,
            (forward + hidden / rounds, dgrad + wgrad + again), (weights_f, weights_b),
        )  # fmt: skip
        away = away_f + away_b
        head = self.columns["head_f"] + self.columns["head_b"] + self.columns["embedding"]
        head = head * self._gemm_factor(16)
        head = head + self._head_collectives()
        head = head + self._waiting(head, HEAD_KERNELS * 3.0)
        layer = forward + dgrad + wgrad + again + hidden + weights + away + idle
        middle = self.layers * layer
        p = self.plans.pipeline
        fewer = np.where(self._balanced(), self.layers - 1.0, self.layers)
        own = uneven(self.plans)
        if own.any():
            fewer = np.where(own, layers_at(self.plans, self.job.model.depth, p - 1), fewer)
        stage = np.maximum(middle, fewer * layer + head)
        mean = self.job.model.depth / p * layer + head / p
        bubble = self._bubble(stage, mean, wgrad, layer, forward + (hidden + idle) / rounds)
        own = interleaved_unevenly(self.plans)
        if own.any():
            ahead = forward + (hidden + idle) / rounds + weights_f + away_f
            times = (x[own] for x in (ahead, layer, head, self.m))
            bubble[own] = bubble_s(self.plans.take(own), self.job.model.depth, *times)
        slow = 1.0 + self.cal.straggler * np.log2(np.maximum(self.devices / self.net.node, 1.0))
        share = self.m * slow
        extra = np.maximum(stage - middle, 0.0)
        exchanged = np.zeros(len(self.plans))
        if gradients:
            exchanged = self._gradients(stage - self.layers * forward, self.layers * forward)
        parts = {
            "forward": share * (self.layers * forward + extra / 3.0),
            "backward": share * (self.layers * (dgrad + wgrad) + extra * (2.0 / 3.0)),
            "recompute": share * self.layers * again,
            "tensor": share * self.layers * inside[0],
            "context": share * self.layers * inside[1],
            "experts": share * self.layers * inside[2],
            "weights": share * self.layers * weights,
            "offload": share * self.layers * away,
            "bubble": bubble * slow,
            "transfer": self._transfer() * slow,
            "gradients": exchanged * slow,
            "optimizer": (optimizer_s if gradients else least_optimizer_s)(
                self.r, self.plans, self.held, self.device, self.cluster, self.net.node
            ),
            "host": self.cal.step * (not self.r.traced) + share * self.layers * idle,
        }
        return StepTime(
            parts=parts, seconds=np.sum(list(parts.values()), axis=0), micro_batches=self.m,
            hardware_flop=self._flop(),
            layer={
                "forward": (forward + (hidden + idle) / rounds + weights_f + away_f) * slow,
                "backward": slow * (
                    dgrad + again + (hidden + idle) * (1.0 - 1.0 / rounds) + weights_b
                    + away_b
                ),
                "weight": wgrad * slow, "head": head * slow,
            },
        )  # fmt: skip

    def _gemm_factor(self, bits: float) -> float:
        c = self.cal
        narrow = 1.0 if bits > 8 else (c.gemm_fp8 if bits > 6 else c.gemm_fp4)
        return c.gemm * narrow * self.slow_clock

    def _compute(self) -> tuple[Array, Array, Array, Array]:
        """Seconds per layer: forward, input gradient, weight gradient, recomputation."""
        c, k = self.cal, self.columns
        gemm = self._gemm_factor(self.bits)
        stream = c.stream * (1.0 if self.r.compiled else c.eager)
        fused = self.r.fused_attention
        attention = c.attention * self.slow_clock if fused else stream
        attention = attention * (c.attention_older if fused and self.r.older_attention else 1.0)
        back = attention * (c.attention_backward if fused else 1.0)
        f = gemm * k["gemm_f"] + attention * k["attention_f"] + stream * k["stream_f"]
        f = f + c.experts * gemm * k["experts_f"] + stream * k["around_f"] + c.scan * k["scan_f"]
        # Libraries of 8-bit products bring fused casts, also where all else runs eagerly.
        f = f + c.stream * k["cast_f"]
        d = gemm * k["gemm_d"] + back * k["attention_d"]
        d = d + stream * c.stream_backward * (k["stream_d"] + k["around_d"])
        d = d + c.experts * gemm * k["experts_d"] + c.scan * k["scan_d"]
        d = d + c.stream * c.stream_backward * k["cast_d"]
        trained = 0.0 if self.r.adapters else 1.0
        w = gemm * k["gemm_w"] + c.experts * gemm * k["experts_w"] + c.scan * k["scan_w"]
        w = trained * (w + self._accumulation())
        core = attention * k["core"]
        recompute, modules = self.plans.recompute, self.r.recompute_modules
        second = (
            0.5 * gemm * k["gemm_f"]
            + stream * k["stream_f"]
            + c.stream * k["cast_f"]
            + 0.5 * c.experts * gemm * k["experts_f"]
            + stream * k["around_f"]
            + c.scan * k["scan_f"]
        )
        again = np.where((recompute == SELECTIVE) | ("core_attn" in modules), core, 0.0)
        again = np.where(recompute == ALTERNATE, second, again)
        again = again + gemm * k["again_gemm"] + stream * k["again_stream"]
        again = again + c.experts * gemm * k["again_experts"]
        again = self.whole * f + (1.0 - self.whole) * again
        return f, d, w, again

    def _accumulation(self) -> Array:
        """Seconds per layer in which a micro-batch's weight gradients are added up.

        They are read and written as they are held, beyond the 16 bits that their product writes;
        under ZeRO-3 they are copied to where the reduction sends them from, whose own traffic runs
        beside compute.
        """
        width = self.r.gradient_bytes
        moved = np.where(self.plans.zero == 3, 2.0 + width, 2.0 * width - 2.0)
        dense, experts = self.held
        speed = OPTIMIZER_BANDWIDTH_SHARE * self.device.memory.bandwidth_bytes_per_s
        return moved * (dense + experts) / self.layers / speed

    def _idle(self, busy: Array) -> Array:
        """Seconds per layer that the device waits for launches; collectives queue like kernels.

        Long kernels let the host run ahead and short ones use that up, so the sum over a layer is
        a smooth maximum of the two.
        """
        kernels = expert_kernels(self.job, self.r, self.plans)
        if self.r.graphs == "none":
            kernels = kernels + self.columns["kernels"]
        return self._waiting(busy, kernels * (3.0 + self.whole))

    def _waiting(self, busy: Array, launches: Array | float) -> Array:
        """Seconds that so many launches take beyond the device's `busy` ones."""
        host = launches * (self.cal.launch_traced if self.r.traced else self.cal.launch)
        q = LAUNCH_EXPONENT
        return busy * ((1.0 + (host / np.maximum(busy, 1e-12)) ** q) ** (1.0 / q) - 1.0)

    def _tensor(self) -> Array:
        """Two all-reduces per layer, or as many pairs of all-gather and reduce-scatter."""
        tp = self.plans.tensor
        reductions = 1.0 if any(g.parallel for g in self.job.model.layers) else 2.0
        payload = 2.0 * self.tokens * self.shape.hidden
        time = self.rings.ring(payload, tp, np.ones_like(tp), 2.0 * reductions)
        if self.r.overlap_tensor:
            # Chunks of the product hide all but the first and last chunk.
            compute = self.cal.gemm * self.columns["gemm_f"]
            rest = self.cal.overlap_rest
            time = np.maximum(time - compute * (1 - rest), time * rest)
        return time

    def _head_collectives(self) -> Array:
        """Seconds of the all-reduces that a vocabulary over tensor ranks takes: the embedding's
        output, the gradient of the head's input; of the loss the largest logit, sum and target."""
        tp = self.plans.tensor
        wide = self.rings.ring(2.0 * self.tokens * self.shape.hidden, tp, np.ones_like(tp), 4.0)
        return wide + self.rings.ring(4.0 * self.tokens, tp, np.ones_like(tp), 6.0)

    def _skew(self, compute: Array) -> Array | float:
        """Seconds per layer that traced collectives wait for the slowest of their ranks."""
        if not self.r.traced:
            return 0.0
        return np.where(self.plans.tensor > 1, self.cal.skew_traced * compute, 0.0)

    def _context(self) -> Array:
        """Seconds per layer and pass that the exchange of the recipe leaves exposed."""
        cp = self.plans.context
        if np.all(cp == 1):
            return np.zeros(len(self.plans))
        layers = self.job.model.layers
        width = np.mean([key_value_width(g.mixer, self.r) for g in layers])
        attention = self.cal.attention * self.columns["attention_f"]
        if self.r.context == "ulysses":
            both = width + np.mean([query_width(g.mixer) for g in layers])
            return np.where(cp > 1, self._all_to_all(2.0 * self.tokens * both), 0.0)
        payload = 2.0 * self.tokens * cp * width / self.plans.tensor
        time = self.rings.ring(payload, cp, self.plans.tensor)
        if self.r.context == "all-gather":
            # All blocks but a rank's own are needed after its own.
            return np.where(cp > 1, np.maximum(time - attention / cp, 0.1 * time), 0.0)
        # Keys and values of all ranks pass by; what outlasts attention is exposed.
        shown = np.maximum(time - attention, 0.1 * time)
        return np.where(cp > 1, shown + RING_STEP_S * cp, 0.0)

    def _all_to_all(self, sent: Array) -> Array:
        """Seconds of the two all-to-alls around attention, `sent` bytes per tensor group."""
        n, c, plans = self.net, self.cal, self.plans
        cp = plans.context
        local = cp * plans.tensor <= n.node
        speed = np.where(local, n.inner_bytes_per_s * c.scale_up, n.outer_bytes_per_s * c.network)
        wait = np.where(local, n.inner_latency_s, n.outer_latency_s) + LAUNCH_S
        return sent / plans.tensor * (cp - 1.0) / cp / speed + 2.0 * wait

    def _experts(self) -> Array:
        """Dispatch and combine: tokens for other nodes leave once per node through one adapter.

        A token whose k experts are spread over g nodes visits (g - 1)(1 - (1 - 1/g)^k) others on
        average, and is shared out there over the fast links (DeepSeek-V3, section 3.2.2).
        """
        ep = self.plans.expert
        moe = [g for g in self.job.model.layers if g.ffn.kind == "moe"]
        if not moe or np.all(ep == 1):
            return np.zeros(len(self.plans))
        plans = self.plans
        sharing = partial(stage_ranks, plans.tensor, plans.context, plans.pipeline, self.net.node)
        return by_placement(plans, lambda near: self._exchanged(moe, sharing(near=near)))

    def _exchanged(self, moe: list[LayerGroup], inside: Array) -> Array:
        """Seconds per layer and pass, where a node holds `inside` ranks of a stage."""
        ep = self.plans.expert
        share = sum(g.count for g in moe) / self.job.model.depth
        k = np.mean([g.ffn.experts_per_token for g in moe])
        sp = np.where(self.plans.sequence_parallel, self.plans.tensor, 1)
        width = 2.0 if self.bits > 8 else 1.5
        sent = np.mean([g.ffn.latent or self.shape.hidden for g in moe])
        token = self.tokens / sp * sent * width
        n, c = self.net, self.cal
        reached = c.exchange_fused if self.r.fused_exchange else c.exchange
        local = np.minimum(inside, ep)
        nodes = ep / local
        inner = token * k * (1.0 - 1.0 / local) / (n.inner_bytes_per_s * reached)
        visited = (nodes - 1.0) * (1.0 - (1.0 - 1.0 / nodes) ** k)
        across = FUSED_ADAPTER_SHARE if self.r.fused_exchange else c.network
        outer = token * visited / (n.outer_bytes_per_s * across)
        time = 2.0 * share * ((inner + outer) * self.r.imbalance + LAUNCH_S)
        if self.r.overlap_expert:
            compute = self.columns["gemm_f"] + self.columns["attention_f"]
            time = np.maximum(time - compute, 0.15 * time)
        return np.where(ep > 1, time, 0.0)

    def _gathered(self, forward: Array, backward: Array) -> tuple[Array, Array]:
        """ZeRO-3: a layer's weights are gathered twice and its gradients scattered, beside it.

        Without look-ahead each matrix is, when it is needed, through a list of the ranks' parts.
        """
        sharded = self.plans.zero == 3
        if not np.any(sharded):
            return np.zeros(len(self.plans)), np.zeros(len(self.plans))
        s, plans = self.shape, self.plans
        per_layer = (
            s.split / plans.tensor + s.replicated + s.experts / (plans.expert * plans.expert_tensor)
        )
        stride = data_stride(plans, self.net.node)
        ahead = self.r.look_ahead
        pieces = 1.0 if ahead else MATRICES_PER_LAYER
        gather = self.rings.ring(2.0 * per_layer, plans.shard, stride, 1.0, pieces)
        scatter = self.rings.ring(self.sent * per_layer, plans.shard, stride, 1.0, pieces)
        if not ahead:
            lists = pieces * plans.shard * LIST_ENTRY_S
            gather, scatter = gather + lists, scatter + lists
        # What was recomputed is dropped and gathered again, unless a layer stays as a whole.
        again = 0.0 if ahead else self.whole * gather
        both = gather + scatter + again
        if self.r.overlap_data:
            hidden = self.cal.contention
            f = np.maximum(gather - forward, 0.0) + hidden * np.minimum(gather, forward)
            b = np.maximum(both - backward, 0.0) + hidden * np.minimum(both, backward)
        else:
            f, b = gather, both
        # A pipeline keeps gathered weights and gradients until the step's last micro-batch.
        often = np.where(plans.pipeline > 1, 1.0 / self.m, 1.0)
        return np.where(sharded, f * often, 0.0), np.where(sharded, b * often, 0.0)

    def _balanced(self) -> Array:
        depth = self.job.model.depth
        chunks = self.plans.pipeline * self.plans.virtual
        return (depth % chunks > 0) & ((depth + 2) % chunks == 0) & (self.plans.pipeline > 1)

    def _bubble(
        self, stage: Array, mean: Array, wgrad: Array, layer: Array, forward: Array
    ) -> Array:
        p, v = self.plans.pipeline.astype(float), self.plans.virtual.astype(float)
        kind = self.plans.schedule
        weight = mean * wgrad / np.maximum(layer, 1e-30)
        # One pass through all stages takes their mean p times; the fullest one then repeats.
        plain = (p - 1.0) * mean - (stage - mean)
        plain = np.maximum(plain, 0.0)
        scale = np.where(v > 1, 1.0 / v, 1.0)
        zero = np.maximum(1.0 - 2.0 * weight / mean, 0.0)
        # F beside B takes the sum of both: F + B + B - 3 W.
        twice = 2.0 - forward / np.maximum(layer, 1e-30)
        dual = np.maximum(p / 2.0 - 1.0, 0.0) / np.maximum(p - 1.0, 1.0)
        dual = dual * np.maximum(twice - 3.0 * weight / mean, 0.0)
        scale = np.where(kind == SCHEDULES.index("zero-bubble"), zero, scale)
        scale = np.where(kind == SCHEDULES.index("dualpipe"), dual, scale)
        return np.where(p > 1, plain * scale, 0.0)

    def _transfer(self) -> Array:
        """Activations forward and gradients back between stages, once per chunk."""
        size = 2.0 * self.tokens * self.shape.hidden / self.plans.tensor
        return transfer_s(self.plans, self.net, self.cal, size, self.m)

    def _gradients(self, backward: Array, forward: Array) -> Array:
        """Reduce gradients and share new weights over the data ranks, beside compute if asked."""
        plans = self.plans
        ranks = plans.data * plans.context
        dense, experts = self.held
        stride = data_stride(plans, self.net.node)
        apart = owner_stride(plans, self.net.node)
        group = plans.expert * plans.expert_tensor
        owners = np.maximum(ranks * plans.tensor // group, 1)
        width = self.sent
        if self.r.adapters:
            return np.zeros(len(plans))
        work = compression_s(self.r, plans, self.device, self.m, dense + experts)
        reduce = self.rings.ring(width * dense, ranks, stride)
        reduce = reduce + self.rings.ring(width * experts, owners, apart)
        back = np.where(plans.zero == 0, width, 2.0)
        share = self.rings.ring(dense * back, ranks, stride)
        share = share + self.rings.ring(experts * back, owners, apart)
        if not self.r.overlap_data:
            return work + np.where(plans.zero == 3, 0.0, reduce + share)
        shown = self.cal.contention
        b = np.maximum(reduce - backward, 0.0) + shown * np.minimum(reduce, backward)
        f = np.maximum(share - forward, 0.0) + shown * np.minimum(share, forward)
        # Sharded gradients cannot wait for the last micro-batch: each one's are reduced.
        b = np.where(plans.zero == 2, self.m * b, b)
        return work + np.where(plans.zero == 3, 0.0, b + f)

    def _flop(self) -> Array:
        k, plans = self.columns, self.plans
        again = np.where(plans.recompute == SELECTIVE, k["core_flop"], 0.0)
        rounds = self.r.rounds
        layer = self.layers * ((rounds + self.whole) * k["flop"] + (1.0 - self.whole) * again)
        return self.m * (layer + rounds / 3.0 * k["head_flop"] / plans.pipeline)


FUSED_ADAPTER_SHARE = 0.9
"""Share of their rate at which fused exchanges drive network adapters (DeepEP: 43 to 58 GB/s of
RDMA per device behind 50 GB/s adapters)."""
HEAD_KERNELS = 8.0
"""Kernels around the layers: embedding, positions, norm, logits and the pieces of the loss."""
LAUNCH_EXPONENT = 3.0
RING_STEP_S = 2e-5
"""Launches and the merge of partial outputs per step of a ring over contexts; estimate."""
LIST_ENTRY_S = 1e-5
"""One view and one copy per rank of a collective that works on a list of tensors; estimate."""
MATRICES_PER_LAYER = 4.0
"""Projections of attention and feed-forward that are gathered one by one."""
