"""The space of plans of a job on a fleet, as arrays, without what cannot divide."""

from __future__ import annotations

from itertools import product

import numpy as np
from attrs import evolve, frozen

from ..cost.features import Array
from ..errors import InvalidPlan
from ..models import ModelSpec
from .placement import differs, stage_ranks
from .plan import OPEN, PLACEMENTS, RECOMPUTE, SCHEDULES, Plans, TrainingJob

SINGLE = tuple(SCHEDULES.index(s) for s in ("gpipe", "1f1b", "zero-bubble", "dualpipe"))
BATCH_TOLERANCE = 0.05 + 1e-9
"""How far a batch in tokens is moved: as far as a million is from 2^20."""
INTERLEAVED, DUALPIPE = SCHEDULES.index("interleaved"), SCHEDULES.index("dualpipe")


@frozen(kw_only=True)
class SpaceLimits:
    """How far a search goes.

    Attributes
    ----------
    tensor, pipeline, context, micro_batch, virtual, expert : int
        Largest degrees.
    node : int
        Devices of a node: the shard size of hybrid ZeRO.
    weights : tuple of int
        Codes of places for the shards of ZeRO 3 (see `isoflop.training.plan.OFFLOAD`).
    placement : {"any", "data-inside", "pipeline-inside"}
        Orders of ranks; any: both, where they differ.
    fast : int
        Devices that the network's fast links reach, beyond which the orders differ; 0: a node.
    by_heads : bool
        Whether context ranks share heads out (Ulysses), so that their degree must divide them too.
    mixes : bool
        Whether a plan that does not fit may recompute as many layers whole as it takes.
    """

    tensor: int = 32
    pipeline: int = 128
    context: int = 8
    micro_batch: int = 64
    virtual: int = 24
    expert: int = 256
    node: int = 8
    recompute: tuple[str, ...] = RECOMPUTE
    zero: tuple[int, ...] = (0, 1, 2, 3)
    weights: tuple[int, ...] = (0,)
    placement: str = PLACEMENTS[0]
    fast: int = 0
    schedules: tuple[str, ...] = ("1f1b", "interleaved", "zero-bubble")
    by_heads: bool = False
    mixes: bool = True


def divisors(n: int, most: int) -> list[int]:
    """Divisors of n up to `most`, ascending."""
    return [d for d in range(1, min(n, most) + 1) if n % d == 0]


def well_divided(wanted: float) -> int:
    """The number of sequences near `wanted` that the highest power of two divides.

    Within BATCH_TOLERANCE of it, and of several the nearest. Data degrees divide it: 4M tokens in
    sequences of 4,096 are 1,024 of them, not 977.
    """
    power = 1 << max(int(wanted * (1.0 + BATCH_TOLERANCE)).bit_length(), 1)
    while power > 1:
        nearest = round(wanted / power) * power
        if nearest and abs(nearest / wanted - 1.0) <= BATCH_TOLERANCE:
            return nearest
        power //= 2
    return max(1, round(wanted))


def fits_tensor(model: ModelSpec, tensor: int) -> bool:
    """Whether heads and feed-forward widths divide over `tensor` ranks."""
    for g in model.layers:
        m, f = g.mixer, g.ffn
        if m.heads and m.heads % tensor:
            return False
        if m.kv_heads and m.kv_heads % tensor and tensor % m.kv_heads:
            return False
        if f.kind in ("gated", "plain") and f.inner % tensor:
            return False
    return True


def shares_heads(model: ModelSpec, ranks: int) -> bool:
    """Whether the heads of every attention layer divide over `ranks`."""
    return all(g.mixer.heads % ranks == 0 for g in model.layers if g.mixer.heads)


def _experts(model: ModelSpec, tp: int, ranks: int, limits: SpaceLimits) -> list[tuple[int, int]]:
    """Expert degrees over `ranks` = tensor x context x data ranks, with one rank per expert."""
    moe = [g.ffn for g in model.layers if g.ffn.kind == "moe"]
    if not moe:
        return [(1, 1)]
    counts = {f.experts for f in moe}
    out = [(1, tp)] if all(f.inner % tp == 0 for f in moe) else []
    degrees = divisors(min(counts), limits.expert)[1:]
    whole = [d for d in degrees if d % tp == 0 and ranks % d == 0]
    return out + [(d, 1) for d in whole if all(c % d == 0 for c in counts)]


@frozen(kw_only=True, eq=False)
class PlanSpace:
    """A space of plans as roots and branches: few arrays stand for all of its plans.

    A root fixes the degrees, the micro-batch, the schedule, the ends and sequence parallelism;
    every root branches into placements, where they differ, and kinds of recomputation, and each of
    those into ZeRO stages, shards and places for the weights.

    Attributes
    ----------
    roots : Plans
        Nothing recomputed, optimizer state sharded over all data ranks: no plan of a root does
        less work.
    local : array, shape (placements, roots)
        Ranks of the smaller shard of each root; 0 where it has none.
    recompute, zero, weights : tuple of int
        Codes of recomputation, ZeRO stages, and codes of places for the shards of ZeRO 3.
    """

    roots: Plans
    local: Array
    recompute: tuple[int, ...]
    zero: tuple[int, ...]
    weights: tuple[int, ...] = (0,)

    def __len__(self) -> int:
        return int(self.counts().sum())

    def counts(self) -> Array:
        """Plans of every root."""
        each = [
            self.placed(place) * sum(self.has(self.roots, local, *leaf) for leaf in self._leaves())
            for place, local in enumerate(self.local)
        ]
        return len(self.recompute) * np.sum(each, axis=0)

    def placed(self, place: int) -> Array:
        """Which roots have a placement, by its code."""
        return (self.roots.placement == place) | (self.roots.placement == OPEN)

    def has(self, plans: Plans, local: Array, zero: int, small: bool, weights: int) -> Array:
        """Which layouts have a ZeRO stage, sharded over all data ranks or the smaller shard.

        With weights away from the device, which also a single rank may keep there.
        """
        ranks = plans.data * plans.context
        single = zero == min(self.zero) if 0 not in self.zero else zero == 0
        one = (ranks == 1) & single & (not small)
        if small:
            found = (local > 0) & (zero > 0)
        else:
            found = np.where((ranks == 1) & (weights == 0), one, True).astype(bool)
        return found & (plans.pipeline == 1) if weights else found

    def _leaves(self) -> list[tuple[int, bool, int]]:
        return [(z, small, away) for z in self.zero for small in (False, True)
                for away in (self.weights if z == 3 else (0,))]  # fmt: skip

    def branches(self, index: Array) -> tuple[Plans, Array]:
        """The roots at `index` under every placement and kind of recomputation, and the position of
        each."""
        roots = [index[self.placed(place)[index]] for place in range(len(PLACEMENTS))]
        at = np.repeat(np.concatenate(roots), len(self.recompute))
        codes = np.tile(np.array(self.recompute, np.int32), len(at) // len(self.recompute))
        counts = [len(r) * len(self.recompute) for r in roots]
        places = np.repeat(np.arange(len(PLACEMENTS), dtype=np.int32), counts)
        return evolve(self.roots.take(at), recompute=codes, placement=places), at

    def leaves(self, branches: Plans, at: Array) -> Plans:
        """Every ZeRO stage, shard and place for weights of `branches` of the roots `at`."""
        parts: list[Plans] = []
        local = self.local[branches.placement, at]
        for zero, small, away in self._leaves():
            chosen = self.has(branches, local, zero, small, away)
            part = branches.take(chosen)
            ranks = part.data * part.context
            shard = local[chosen] if small else ranks
            stage = np.where((ranks == 1) & (away == 0), 0, zero).astype(np.int32)
            parts.append(evolve(part, zero=stage, shard=shard.astype(np.int32),
                                offload_weights=np.full_like(stage, away)))  # fmt: skip
        return Plans.concatenate(parts)


def plan_space(job: TrainingJob, count: int, limits: SpaceLimits | None = None) -> PlanSpace:
    """The space of plans of `count` devices whose degrees divide model, batch and fleet.

    Raises
    ------
    InvalidPlan
        If there is none, with the reason.
    """
    lim = limits or SpaceLimits()
    blocks: list[Array] = []
    for tp in divisors(count, lim.tensor):
        if not fits_tensor(job.model, tp):
            continue
        for pp in divisors(count // tp, min(lim.pipeline, job.model.depth)):
            for cp in divisors(count // (tp * pp), lim.context):
                if cp > 1 and job.sequence_tokens % (2 * cp):
                    continue
                if lim.by_heads and not shares_heads(job.model, tp * cp):
                    continue
                dp = count // (tp * pp * cp)
                if job.global_batch % dp == 0:
                    blocks.append(_block(job, lim, (tp, pp, cp, dp)))
    if not blocks:
        raise InvalidPlan(
            f"No plan lays {job.model.name} with a batch of {job.global_batch} sequences over "
            f"{count} devices: the data degree must divide the batch and the tensor degree the "
            "heads. Change the batch or the number of devices to a multiple of a power of two."
        )
    table = np.concatenate(blocks, axis=1)
    columns = dict(zip(ROOT, table, strict=True))
    ranks = columns["data"] * columns["context"]
    plain = np.zeros(table.shape[1], np.int32)
    roots = Plans(
        **columns, zero=(ranks > 1).astype(np.int32), shard=ranks, recompute=plain,
        full_layers=plain, offload_layers=plain, offload_weights=plain,
        placement=_placements(columns, count, lim), stages=np.zeros((len(plain), 0), np.int32),
    )  # fmt: skip
    local = np.stack([_local(roots, lim.node, near=near) for near in (False, True)])
    codes = tuple(RECOMPUTE.index(r) for r in lim.recompute)
    return PlanSpace(roots=roots, local=local, recompute=codes, zero=lim.zero,
                     weights=lim.weights)  # fmt: skip


def _placements(columns: dict[str, Array], count: int, lim: SpaceLimits) -> Array:
    """The placement of every root; one where both are the same."""
    if lim.placement != "any":
        chosen = PLACEMENTS.index(lim.placement)
        return np.where(columns["pipeline"] > 1, chosen, 0).astype(np.int32)
    tp, cp, pp, dp = (columns[k] for k in ("tensor", "context", "pipeline", "data"))
    both = differs(tp, cp, pp, dp, node=lim.fast or lim.node, count=count)
    return np.where(both, OPEN, 0).astype(np.int32)


def _local(roots: Plans, node: int, *, near: bool) -> Array:
    """Data and context ranks of a stage in one node, where fewer than all and a part of them."""
    sharing = stage_ranks(roots.tensor, roots.context, roots.pipeline, node, near=near)
    local = sharing // roots.tensor
    ranks = roots.data * roots.context
    whole = (local > 1) & (ranks % np.maximum(local, 1) == 0) & (local < ranks)
    return np.where(whole, local, 0)


def enumerate_plans(job: TrainingJob, count: int, limits: SpaceLimits | None = None) -> Plans:
    """Every plan of a space, one by one.

    Raises
    ------
    InvalidPlan
        If there is none, with the reason.
    """
    space = plan_space(job, count, limits)
    return space.leaves(*space.branches(np.arange(len(space.roots))))


ROOT: tuple[str, ...] = (
    "tensor", "pipeline", "context", "data", "expert", "expert_tensor", "micro_batch", "virtual",
    "schedule", "first", "last", "sequence_parallel",
)  # fmt: skip
"""Fields that a root of the space fixes."""


def _block(job: TrainingJob, lim: SpaceLimits, degrees: tuple[int, int, int, int]) -> Array:
    """All roots of one (tensor, pipeline, context, data), as columns in the order of ROOT."""
    tp, pp, cp, dp = degrees
    experts = np.array(_experts(job.model, tp, tp * cp * dp, lim), np.int32)
    micro = np.array(divisors(job.global_batch // dp, lim.micro_batch), np.int32)
    runs = [
        (mb, v, kind, first, last, sp)
        for (v, kind), mb in product(_schedules(job.model.depth, pp, lim), micro)
        if _runs(kind, pp, job.global_batch // (dp * mb))
        for first, last in (_ends(job.model.depth, pp) if v == 1 and kind != DUALPIPE else EVEN)
        for sp in ((0, 1) if tp > 1 else (0,))
    ]
    rows = np.array(runs, np.int32).reshape(-1, 6)
    inner = np.tile(rows, (len(experts), 1)).T
    outer = np.repeat(experts, len(rows), axis=0).T
    same = np.repeat(np.array([[tp], [pp], [cp], [dp]], np.int32), inner.shape[1], axis=1)
    return np.concatenate([same, outer, inner])


EVEN = [(0, 0)]
"""First and last stage as full as the others."""


def _runs(kind: int, pp: int, count: int) -> bool:
    """Whether a schedule runs `count` micro-batches: interleaving wants whole rounds (Narayanan et
    al. 2021, section 2.2), DualPipe pairs of stages and two micro-batches for each."""
    if kind == INTERLEAVED:
        return count % pp == 0
    return kind != DUALPIPE or (pp % 2 == 0 and count % 2 == 0 and count >= 2 * pp)


def _ends(depth: int, pp: int) -> list[tuple[int, int]]:
    """Layers of the first and the last stage where layers do not divide; (0, 0) where they do.

    No stage is fuller than spreading evenly makes the fullest one; the places that leaves free go
    to the ends: one or two to the last stage, for the head, and one to the first, which holds most
    micro-batches in flight. No other spread of the same fullest stage is slower or needs more
    where the head costs up to two layers.
    """
    most = -(-depth // pp)
    free = most * pp - depth
    if not free or most < 3 or (pp > 2 and (depth + 2) % pp == 0):
        return EVEN
    if pp == 2 or free == 1:
        return [(0, most - 1)]
    return [(most - 1, most - 1 if free == 2 else most - 2)]


def _schedules(depth: int, pp: int, lim: SpaceLimits) -> list[tuple[int, int]]:
    if pp == 1:
        return [(1, SCHEDULES.index("1f1b"))]
    out = [(1, SCHEDULES.index(s)) for s in lim.schedules if s != "interleaved"]
    if "interleaved" in lim.schedules:
        # Layers divide over chunks, or do once embedding and head count as one each.
        for layers in {depth, depth + 2}:
            if layers % pp == 0:
                out += [(v, INTERLEAVED) for v in divisors(layers // pp, lim.virtual) if v > 1]
    return out
