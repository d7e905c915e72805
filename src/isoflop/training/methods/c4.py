"""C4: what fast detection and isolation of faults give back."""

from __future__ import annotations

from typing import ClassVar, final

from ..failures import Failures, daly_s, goodput
from ..goodput import FAILURES_PER_DEVICE_HOUR
from ..method import MethodReport, Setting, TrainingMethod


@final
class C4(TrainingMethod):
    """Share of time lost to faults by how they are found.

    Lost per fault: until it is noticed, until the node is found and replaced, until training runs
    again, and the work since the last checkpoint. Without monitoring a hung collective is noticed
    by the library's timeout and the node is found by hand; with it both take seconds to minutes.

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
        return MethodReport(
            title=f"{setting.count} devices, {last['faults_per_day']:.2g} faults a day",
            columns=("way", "down_s", "checkpoint_every_s", "lost_share", "goodput"),
            records=records,
            conclusion=f"Monitoring with automatic isolation loses {last['lost_share']:.1%} of the "
            f"time to faults instead of {first['lost_share']:.1%}, and the run is "
            f"{last['goodput'] / first['goodput']:.2f} times as fast.",
        )  # fmt: skip


METHOD = C4()
