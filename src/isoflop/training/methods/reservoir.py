"""A reservoir between simulations that stream data and the training that eats it."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
from attrs import frozen

from ...errors import InvalidInput
from ..method import MethodReport, Setting, TrainingMethod


@frozen(kw_only=True)
class Streamed:
    """What training saw: batches per second, mean reuse, and bias.

    `bias` is the distance of a batch's mean time step from the ensemble's, over the standard
    deviation that a batch drawn at random would have: 1 for unbiased batches.
    """

    batches_per_s: float
    reuse: float
    bias: float
    waiting: float


def stream(
    policy: str, *, simulations: int, steps: int, parallel: int, step_s: float, batch: int,
    batch_s: float, capacity: int, watermark: int, seed: int = 0,
) -> Streamed:  # fmt: skip
    """Simulate an ensemble run and a trainer around a buffer.

    `parallel` simulations run at once, each giving a sample (labelled by its time step) every
    `step_s`. Policies: fifo, batches of the oldest samples, each used once; reservoir, random
    batches of a buffer in which new samples replace ones already seen, from `watermark` on, and
    training goes on with the buffer after production ends until as many batches as samples / batch
    have run; offline, training begins when everything is produced.
    """
    if policy not in ("fifo", "reservoir", "offline"):
        raise InvalidInput(f"'{policy}' is no policy; choose fifo, reservoir or offline.")
    rng = np.random.default_rng(seed)
    made = _production(simulations, steps, parallel, step_s)
    labels = np.tile(np.arange(steps), simulations)[made.argsort(kind="stable")]
    made = np.sort(made)
    total = len(made)
    wanted = total // batch
    spread = np.std(np.arange(steps)) / np.sqrt(batch)
    middle = (steps - 1) / 2.0
    clock, taken, ran, waited = 0.0, 0, 0, 0.0
    buffer: list[int] = []
    seen: list[bool] = []
    uses, off = 0, []
    while ran < wanted:
        arrived = int(np.searchsorted(made, clock, side="right"))
        if policy == "reservoir":
            while taken < arrived:
                if len(buffer) < capacity:
                    buffer.append(int(labels[taken]))
                    seen.append(False)
                else:
                    old = [j for j in rng.integers(0, capacity, 16) if seen[j]]
                    if not old:
                        break  # producers wait: everything in the buffer is still new
                    buffer[old[0]], seen[old[0]] = int(labels[taken]), False
                taken += 1
            ready = len(buffer) >= min(watermark, total)
        elif policy == "fifo":
            ready = arrived - taken >= batch
        else:
            ready = arrived == total
        if not ready:
            later = made[min(arrived, total - 1)]
            if policy == "offline":
                later = made[-1]
            waited += max(later - clock, 1e-9)
            clock = max(float(later), clock + 1e-9)
            continue
        if policy == "fifo":
            chosen = labels[taken : taken + batch]
            taken += batch
        elif policy == "reservoir":
            picks = rng.integers(0, len(buffer), batch)
            chosen = np.array([buffer[j] for j in picks])
            for j in picks:
                seen[j] = True
        else:
            chosen = labels[rng.integers(0, total, batch)]
        off.append(abs(float(chosen.mean()) - middle))
        uses += batch
        ran += 1
        clock += batch_s
    # The mean absolute deviation of a normal variable is 0.798 of its deviation.
    return Streamed(
        batches_per_s=ran / clock, reuse=uses / max(1, len(set(range(total))) or 1),
        bias=float(np.mean(off)) / (0.7979 * float(spread)), waiting=waited / clock,
    )  # fmt: skip


def _production(simulations: int, steps: int, parallel: int, step_s: float) -> np.ndarray:
    """Time each sample is produced, by simulation and step."""
    wave = np.arange(simulations) // parallel
    start = wave * steps * step_s
    return (start[:, None] + (np.arange(steps) + 1.0)[None, :] * step_s).ravel()


@final
class Reservoir(TrainingMethod):
    """Batches per second and their bias when simulations stream into training.

    All running simulations are at the same time step, so batches in order of arrival are strongly
    biased; a reservoir mixes steps and lets training go on while simulations are slow.

    References
    ----------
    Meyer et al. 2023, High Throughput Training of Deep Surrogates from Large Ensemble Runs,
    arXiv 2309.16743.
    """

    title: ClassVar[str] = "a reservoir between streaming simulations and training"
    reference: ClassVar[str] = "Deep Surrogates from Ensemble Runs, arXiv 2309.16743"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "simulations": (200.0, "simulations of the ensemble"),
        "steps": (100.0, "time steps of each"),
        "parallel": (20.0, "simulations that run at once"),
        "step_s": (0.05, "seconds of one of their steps"),
        "batch": (10.0, "samples of a batch"),
        "capacity": (2000.0, "samples the reservoir holds"),
        "watermark": (500.0, "samples before training begins"),
    }

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        s = {k: round(v) if k != "step_s" else v for k, v in settings.items()}
        batch_s = setting.alone().compute_s(1)
        records: list[dict[str, Any]] = []
        for policy in ("offline", "fifo", "reservoir"):
            seen = stream(
                policy, simulations=int(s["simulations"]), steps=int(s["steps"]),
                parallel=int(s["parallel"]), step_s=s["step_s"], batch=int(s["batch"]),
                batch_s=batch_s, capacity=int(s["capacity"]), watermark=int(s["watermark"]),
            )  # fmt: skip
            records.append({"policy": policy, "batches_per_s": seen.batches_per_s,
                            "waiting": seen.waiting, "bias": seen.bias})  # fmt: skip
        return MethodReport(
            title=f"A batch of training takes {batch_s * 1e3:.1f} ms",
            columns=("policy", "batches_per_s", "waiting", "bias"), records=records,
            conclusion=f"The reservoir trains {records[2]['batches_per_s']:.3g} batches/s against "
            f"{records[0]['batches_per_s']:.3g} offline, with a bias of {records[2]['bias']:.2f} "
            f"where arrival order has {records[1]['bias']:.2f} (1: drawn at random).",
        )  # fmt: skip


METHOD = Reservoir()
