"""Speed of the plan search: plans per core-second, evaluated and pruned apart.

    python -m benchmarks.training

The second table is the space that calculon's search enumerates for GPT-3 175B on 4096 devices at
a batch of 4096 with two networks and a second memory tier, as large or larger: the same degrees,
every recipe of overlap, offload and exchange searched in turn, each against the best of those
before it.
"""

from __future__ import annotations

import time
from itertools import product

from attrs import evolve

from isoflop.hardware import load_fleet
from isoflop.models import load_model
from isoflop.training.plan import Recipe, TrainingJob
from isoflop.training.search import search_plans
from isoflop.training.space import SpaceLimits, divisors, fits_tensor

WIDE = SpaceLimits(
    micro_batch=4096,
    tensor=64,
    context=64,
    schedules=("gpipe", "1f1b", "interleaved", "zero-bubble", "dualpipe"),
)
CASES = (
    ("gpt3-175b", "4096xselene", 4096, 2048),
    ("llama-3.1-70b", "512xdgx-h100", 1024, 4096),
    ("deepseek-v3", "2048xdgx-h100", 15360, 4096),
)
NETWORKS, OVERLAPS, COLLECTIVES = 2, 3, 3
"""calculon's choices per plan: networks, tensor overlap, kinds of tensor collectives."""


def calculon_plans(job: TrainingJob, devices: int) -> int:
    """Executions that calculon's search enumerates for a job, with a second memory tier.

    Isaev et al. 2023, Calculon (SC23); its llm-optimal-execution command.
    """
    depth, total = job.model.depth, 0
    for tp in (d for d in divisors(devices, devices) if fits_tensor(job.model, d)):
        for pp in (d for d in divisors(depth, devices // tp) if devices % (tp * d) == 0):
            dp = devices // (tp * pp)
            chunks = len(divisors(depth // pp, depth)) if pp > 1 else 1
            micro = divisors(job.global_batch // dp, job.global_batch)
            micro = [m for m in micro if m * job.sequence_tokens % tp == 0]
            # Weights and optimizer may live in the second tier, and activations that are kept;
            # with reduce-scatter and all-gather, inputs may be gathered again.
            kept, whole = 2 * (COLLECTIVES + 1) * 2, COLLECTIVES
            kinds = 4 * (kept + whole) * (OVERLAPS if tp > 1 else 1) * (4 if dp > 1 else 1)
            networks = NETWORKS ** sum(d > 1 for d in (tp, pp, dp))
            total += chunks * len(micro) * kinds * networks
    return total


def one_by_one() -> None:
    """One line per space of one recipe."""
    print(f"{'space':44s} {'plans':>10s} {'too large':>10s} {'outbid':>9s} {'priced':>9s}"
          f" {'CPU s':>7s} {'M plans/s':>9s}")  # fmt: skip
    for model, fleet, batch, seq in CASES:
        device, count, cluster = load_fleet(fleet)
        job = TrainingJob(model=load_model(model), global_batch=batch, sequence_tokens=seq)
        start = time.process_time()
        found = search_plans(job, Recipe(), device, count, cluster, limits=WIDE)
        spent = time.process_time() - start
        print(f"{f'{model} on {fleet}, batch {batch}':44s} {found.considered:10,d} "
              f"{found.too_large:10,d} {found.outbid:9,d} {found.priced:9,d} {spent:7.2f} "
              f"{found.considered / spent / 1e6:9.2f}")  # fmt: skip


def recipes() -> list[Recipe]:
    """Every recipe of the large space: what overlaps, where state lives, how gradients travel."""
    choices = product((True, False), (True, False), ("none", "cpu"), ("", "bf16"))
    return [
        Recipe(overlap_tensor=tensor, overlap_data=data, offload=offload, exchange=exchange)
        for tensor, data, offload, exchange in choices
    ]


def large() -> None:
    """The optimum over all plans and recipes of the large space."""
    model, fleet, batch, seq = CASES[0]
    device, count, cluster = load_fleet(fleet)
    job = TrainingJob(model=load_model(model), global_batch=batch, sequence_tokens=seq)
    limits = evolve(WIDE, virtual=job.model.depth)
    best, counted, winner = float("inf"), [0, 0, 0, 0], ""
    start = time.process_time()
    for recipe in recipes():
        found = search_plans(job, recipe, device, count, cluster, limits=limits, under_s=best)
        mine = found.considered, found.too_large, found.outbid, found.priced
        counted = [a + b for a, b in zip(counted, mine, strict=True)]
        if found.priced and found.seconds[0] < best:
            best = float(found.seconds[0])
            tensor = "overlapped" if recipe.overlap_tensor else "exposed"
            winner = (
                f"{found.best.describe()}, tensor collectives {tensor}, "
                f"gradients {recipe.exchange or 'fp32'}, offload {recipe.offload}"
            )
    spent = time.process_time() - start
    considered, too_large, outbid, priced = counted
    print(
        f"{model} on {fleet}, batch {batch}, {len(recipes())} recipes: {considered:,} plans "
        f"(calculon enumerates {calculon_plans(job, count):,}) in {spent:.1f} CPU s, "
        f"{considered / spent / 1e6:.1f} M plans/s; {too_large:,} too large, {outbid:,} outbid, "
        f"{priced:,} priced\nfastest: {winner}, {best:.3f} s a step"
    )  # fmt: skip


def main() -> None:
    """Print both tables."""
    one_by_one()
    large()


if __name__ == "__main__":
    main()
