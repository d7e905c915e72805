"""Open collaborations: who computes and who averages, over slow and uneven links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import numpy as np
from attrs import frozen

from ...cost.features import Array
from ..method import MethodReport, Setting, TrainingMethod


@frozen(kw_only=True)
class Peer:
    """One participant: samples per second, and bytes per second in each direction."""

    name: str
    samples_per_s: float
    download: float
    upload: float


@frozen(kw_only=True)
class Roles:
    """Shares of the averaged vector per peer, and the seconds of one averaging."""

    aggregated: Array
    average_s: float


def average_roles(peers: Sequence[Peer], vector_bytes: float) -> Roles:
    """Shares a_i of the vector each peer averages so that one averaging ends soonest.

    Peer i receives its share from the n - 1 others and the rest of the result from them, sends
    the rest of its own vector and its finished share to the others: with v bytes,

        download: v (a_i (n - 1) + 1 - a_i) <= t d_i      upload: the same with u_i

    A linear program in a and 1/t; solved as one in (a, t).
    """
    from scipy.optimize import linprog

    n = len(peers)
    cost = np.zeros(n + 1)
    cost[-1] = 1.0
    rows, limits = [], []
    for i, peer in enumerate(peers):
        for speed in (peer.download, peer.upload):
            row = np.zeros(n + 1)
            row[i] = (n - 2.0) * vector_bytes / speed
            row[-1] = -1.0
            rows.append(row)
            limits.append(-vector_bytes / speed)
    whole = np.concatenate([np.ones(n), [0.0]])[None, :]
    found = linprog(
        cost, A_ub=np.array(rows), b_ub=np.array(limits), A_eq=whole, b_eq=[1.0],
        bounds=[(0.0, 1.0)] * n + [(0.0, None)],
    )  # fmt: skip
    return Roles(aggregated=found.x[:n], average_s=float(found.x[-1]))


def even_average_s(peers: Sequence[Peer], vector_bytes: float) -> float:
    """Seconds where every peer averages the same share."""
    n = len(peers)
    each = vector_bytes * (1.0 / n * (n - 1) + 1.0 - 1.0 / n)
    return max(each / min(p.download, p.upload) for p in peers)


def server_average_s(peers: Sequence[Peer], vector_bytes: float) -> float:
    """Seconds where the best-connected peer alone averages for all."""
    n = len(peers)
    best = max(peers, key=lambda p: min(p.download, p.upload))
    alone = (n - 1) * vector_bytes / min(best.download, best.upload)
    others = max(vector_bytes / min(p.download, p.upload) for p in peers)
    return max(alone, others)


@final
class OpenCollaborations(TrainingMethod):
    """A few servers with good links, many workstations behind home connections.

    References
    ----------
    Diskin et al. 2021, Distributed Deep Learning in Open Collaborations, arXiv 2106.10207
    (section 3.2: adaptive averaging as a linear program).
    """

    title: ClassVar[str] = "volunteers: who computes and who averages over uneven links"
    reference: ClassVar[str] = "Open Collaborations, arXiv 2106.10207"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "servers": (2.0, "well-connected peers"), "server_mbit": (1000.0, "their links, Mbit/s"),
        "homes": (14.0, "peers behind home connections"),
        "home_down": (200.0, "their download, Mbit/s"), "home_up": (40.0, "their upload, Mbit/s"),
        "batch": (4096.0, "sequences between averagings"),
        "bytes": (2.0, "bytes per averaged parameter"),
    }  # fmt: skip

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        s = settings
        rate = 1.0 / setting.alone().compute_s(1)
        peers = [
            Peer(name="server", samples_per_s=rate, download=s["server_mbit"] / 8 * 1e6,
                 upload=s["server_mbit"] / 8 * 1e6)
            for _ in range(round(s["servers"]))
        ] + [
            Peer(name="home", samples_per_s=rate, download=s["home_down"] / 8 * 1e6,
                 upload=s["home_up"] / 8 * 1e6)
            for _ in range(round(s["homes"]))
        ]  # fmt: skip
        vector = s["bytes"] * setting.model.parameters
        compute = s["batch"] / sum(p.samples_per_s for p in peers)
        roles = average_roles(peers, vector)
        ways = {
            "one server": server_average_s(peers, vector),
            "even all-reduce": even_average_s(peers, vector),
            "adaptive": roles.average_s,
        }
        records: list[dict[str, Any]] = [
            {"way": k, "average_s": v, "round_s": compute + v, "busy": compute / (compute + v),
             "sequences_per_s": s["batch"] / (compute + v)}
            for k, v in ways.items()
        ]  # fmt: skip
        good = float(roles.aggregated[: round(s["servers"])].sum())
        return MethodReport(
            title=f"{len(peers)} peers with one {setting.device.name} each",
            columns=("way", "average_s", "round_s", "busy", "sequences_per_s"), records=records,
            conclusion=f"The program lets the {round(s['servers'])} well-connected peers average "
            f"{good:.0%} of the vector: a round is "
            f"{records[1]['round_s'] / records[2]['round_s']:.2f} times as fast as with even "
            "shares.",
        )  # fmt: skip


METHOD = OpenCollaborations()
