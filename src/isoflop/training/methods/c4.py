"""C4: what fast detection and isolation of faults give back."""

from __future__ import annotations

from typing import ClassVar, final

from attrs import evolve

from ..collisions import slowest_share
from ..failures import Failures, daly_s, goodput
from ..goodput import FAILURES_PER_DEVICE_HOUR
from ..method import MethodReport, Setting, TrainingMethod
from ..plan import TrainingPlan


@final
class C4(TrainingMethod):
    """Share of time lost to faults by how they are found.

    Lost per fault: until it is noticed, until the node is found and replaced, until training runs
    again, and the work since the last checkpoint. Without monitoring a hung collective is noticed
    by the library's timeout and the node is found by hand; with it both take seconds to minutes.
    Besides, flows that switches hash onto the same path share it, and a collective waits for the
    slowest: planned paths give data-parallel steps the whole rate of the network.

    References
    ----------
    Dong et al. 2024, Boosting Large-scale Parallel Training Efficiency with C4, arXiv 2406.04594.
    """

    title: ClassVar[str] = "what fast detection and isolation of faults give back"
    reference: ClassVar[str] = "C4, arXiv 2406.04594"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "rate": (FAILURES_PER_DEVICE_HOUR, "faults per device and hour"),
        "checkpoint": (60.0, "seconds a checkpoint holds training up"),
        "timeout": (1800.0, "seconds until a hung collective is noticed by its timeout"),
        "by_hand": (7200.0, "seconds until the node is found and replaced by hand"),
        "detect": (30.0, "seconds until monitoring notices"),
        "isolate": (300.0, "seconds until the node is replaced automatically"),
        "restart": (300.0, "seconds from new nodes to the first step"),
        "flows": (16.0, "long flows that leave one switch at once"),
        "paths": (16.0, "paths of equal rate they may take"),
        "batch": (4.0, "sequences per device and step"),
    }

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        s = settings
        per_s = s["rate"] * setting.count / 3600.0
        ways = {
            "timeout, by hand": (s["timeout"], s["by_hand"]),
            "timeout, automatic": (s["timeout"], s["isolate"]),
            "monitored, by hand": (s["detect"], s["by_hand"]),
            "monitored, automatic": (s["detect"], s["isolate"]),
        }
        records = []
        for name, (notice, replace) in ways.items():
            down = notice + replace + s["restart"]
            faults = Failures(mtbf_s=1.0 / per_s, restart_s=down, checkpoint_s=s["checkpoint"])
            kept = goodput(faults)
            interval = daly_s(faults)
            records.append({
                "way": name, "down_s": down, "checkpoint_every_s": interval, "goodput": kept,
                # Besides the checkpoints themselves.
                "lost_share": 1.0 - kept * (1.0 + s["checkpoint"] / interval),
                "faults_per_day": per_s * 86400.0,
            })  # fmt: skip
        first, last = records[0], records[-1]
        share = slowest_share(round(s["flows"]), round(s["paths"]))
        sequences = max(round(s["batch"]), 1)
        planned, hashed = (_step_s(setting, sequences, x) for x in (1.0, share))
        for r in records:
            r |= {"slowest_flow_share": share, "step_planned_s": planned, "step_hashed_s": hashed}
        return MethodReport(
            title=f"{setting.count} devices, {last['faults_per_day']:.2g} faults a day",
            columns=("way", "down_s", "checkpoint_every_s", "lost_share", "goodput"),
            records=records,
            conclusion=f"Monitoring with automatic isolation loses {last['lost_share']:.1%} of the "
            f"time to faults instead of {first['lost_share']:.1%}, and the run is "
            f"{last['goodput'] / first['goodput']:.2f} times as fast. Of {s['flows']:.0f} flows "
            f"hashed onto {s['paths']:.0f} paths the slowest keeps {share:.0%} of its rate on "
            f"average; planned paths take a data-parallel step of {sequences} sequences per "
            f"device from {hashed:.3g} to {planned:.3g} s ({hashed / planned - 1.0:.1%} faster).",
        )  # fmt: skip


def _step_s(setting: Setting, sequences: int, share: float) -> float:
    """Seconds of a data-parallel step whose network between nodes keeps a share of its rate."""
    cluster = setting.cluster
    if cluster is not None and len(cluster.tiers) > 1:
        outer = cluster.tiers[-1]
        slow = evolve(outer, link_bytes_per_s=share * outer.link_bytes_per_s)
        setting = evolve(setting, cluster=evolve(cluster, tiers=(*cluster.tiers[:-1], slow)))
    plan = TrainingPlan(data=setting.count, zero=1 if setting.count > 1 else 0)
    return float(setting.step(plan, sequences * setting.count).seconds[0])


METHOD = C4()
