"""CO2: local steps and an outer update that travels while the next ones compute."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ...cost.features import Array
from ..method import MethodReport, Setting, TrainingMethod

LOCAL_STEPS = (1, 2, 4, 8, 16, 32, 64)


@final
class Co2(TrainingMethod):
    """Data parallelism whose averages arrive one round late.

    Every worker takes t local steps; the average of their changes is reduced while the next t run,
    so a round lasts max(t T_compute, T_reduce) instead of t (T_compute + T_reduce). The outer
    update then uses the change of the round before last. Two columns train a noisy
    quadratic for real and compare the final loss with local steps that wait for their average:
    without and with the staleness gap penalty (the outer step divided by 1 + gap). Momentum of
    the outer update is clipped in both.

    References
    ----------
    Sun et al. 2024, CO2, arXiv 2401.16265, algorithm 1.
    """

    title: ClassVar[str] = "local steps with an outer update that is reduced while they run"
    reference: ClassVar[str] = "CO2, arXiv 2401.16265"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "batch": (4.0, "sequences per device and step"),
        "gradient_bytes": (4.0, "bytes per parameter that are reduced"),
        "link_gbit": (0.0, "network per device in Gbit/s; 0: the fleet's own"),
    }

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        compute = setting.compute_s(int(settings["batch"]))
        payload = settings["gradient_bytes"] * setting.model.parameters
        reduce = setting.all_reduce_s(payload)
        if settings["link_gbit"]:
            own = setting.network.outer_bytes_per_s * 8e-9
            reduce *= own / settings["link_gbit"]
        records = []
        for t in LOCAL_STEPS:
            plain = compute + reduce / t  # local steps alone still wait for their average
            hidden = max(compute, reduce / t)
            records.append({
                "local_steps": t, "step_s": hidden, "scaling": compute / hidden,
                "local_scaling": compute / plain,
                "stale_loss": quadratic_gap(t, penalty=False), "loss": quadratic_gap(t),
            })  # fmt: skip
        enough = next((r["local_steps"] for r in records if r["scaling"] >= 1.0), None)
        text = (
            f"One step computes {compute * 1e3:,.0f} ms and one reduction takes "
            f"{reduce * 1e3:,.0f} ms: reducing after every step scales to "
            f"{compute / (compute + reduce):.0%}, CO2 to 100% from "
            f"{enough if enough else 'more than 64'} local steps."
        )
        return MethodReport(
            title=f"{setting.count} devices", records=records, conclusion=text,
            columns=("local_steps", "step_s", "scaling", "local_scaling", "stale_loss", "loss"),
        )  # fmt: skip


def train_quadratic(
    workers: int, local_steps: int, steps: int, *, asynchronous: bool, penalty: bool = True,
    rate: float = 0.05, momentum: float = 0.5, clip: float = 1.0, seed: int = 0,
) -> Array:  # fmt: skip
    """Loss after every round of SGD on f(x) = x A x / 2 with gradient noise.

    Parameters
    ----------
    asynchronous : bool
        The outer update is one round late, as in CO2; else local SGD waits for its average.
    penalty : bool
        Divide a stale outer step by 1 + gap, the gap being one round.
    clip : float
        Largest norm of the outer momentum, as a multiple of the first change's.
    """
    rng = np.random.default_rng(seed)
    curvature = np.geomspace(0.05, 1.0, 16)
    anchor, outer = np.ones(16), np.zeros(16)
    local = np.tile(anchor, (workers, 1))
    late: Array | None = None
    scale: float | None = None
    losses = []
    for _ in range(steps // local_steps):
        begin = local.copy()
        for _ in range(local_steps):
            noise = 0.3 * rng.standard_normal(local.shape)
            local = local - rate * (local * curvature + noise)
        change = (local - begin).mean(axis=0)
        ready, late = (late, change) if asynchronous else (change, None)
        if ready is not None:
            gap = 2.0 if asynchronous and penalty else 1.0
            outer = momentum * outer + ready / gap
            scale = float(np.linalg.norm(ready)) if scale is None else scale
            norm = float(np.linalg.norm(outer))
            outer *= min(1.0, clip * scale / max(norm, 1e-30))
            anchor = anchor + outer
        local = np.tile(anchor, (workers, 1))
        losses.append(0.5 * float((anchor * curvature) @ anchor))
    return np.array(losses)


def quadratic_gap(
    local_steps: int, workers: int = 8, steps: int = 1024, penalty: bool = True
) -> float:
    """Final loss of CO2 over that of local steps that wait for their average, on the quadratic."""

    def end(asynchronous: bool) -> float:
        tail = max(1, 256 // local_steps)
        runs = [
            train_quadratic(workers, local_steps, steps, asynchronous=asynchronous,
                            penalty=penalty, seed=seed)[-tail:].mean()
            for seed in range(4)
        ]  # fmt: skip
        return float(np.mean(runs))

    return end(True) / end(False)


METHOD = Co2()
