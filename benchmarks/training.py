"""Speed of the plan search: plans per core-second, evaluated and pruned apart.

python -m benchmarks.training
"""

from __future__ import annotations

import time

from isoflop.hardware import load_fleet
from isoflop.models import load_model
from isoflop.training.memory import memory_parts, total_bytes
from isoflop.training.plan import Recipe, TrainingJob
from isoflop.training.search import CHUNK, search_plans
from isoflop.training.space import SpaceLimits, enumerate_plans

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


def main() -> None:
    """Print one line per space."""
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
    plans = enumerate_plans(job, count, WIDE)
    start = time.process_time()
    for i in range(0, len(plans), CHUNK):
        total_bytes(memory_parts(job, Recipe(), plans.take(slice(i, i + CHUNK))))
    spent = time.process_time() - start
    print(f"memory alone: {len(plans) / spent / 1e6:.2f} M plans per core-second")


if __name__ == "__main__":
    main()
