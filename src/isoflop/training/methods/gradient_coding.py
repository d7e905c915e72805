"""Gradient coding: redundant work that stragglers cannot hold up, within and across rounds."""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

import numpy as np

from ...cost.features import Array
from ...errors import InvalidInput
from ..method import MethodReport, Setting, TrainingMethod


def cyclic_code(workers: int, stragglers: int, seed: int = 0) -> Array:
    """Coefficients (workers, parts) with support on s + 1 cyclic parts and all-ones decodable.

    Tandon et al. 2017, algorithm 1: rows lie in the null space of a random matrix whose rows sum
    to zero, so any workers - stragglers of them span the vector of ones.
    """
    n, s = workers, stragglers
    if not 0 <= s < n:
        raise InvalidInput(f"{s} stragglers of {n} workers leave nobody; give fewer than {n}.")
    if s == 0:
        return np.eye(n)
    h = np.random.default_rng(seed).standard_normal((s, n))
    h[:, -1] = -h[:, :-1].sum(axis=1)
    code = np.zeros((n, n))
    for i in range(n):
        parts = [(i + j) % n for j in range(s + 1)]
        code[i, i] = 1.0
        code[i, parts[1:]] = -np.linalg.solve(h[:, parts[1:]], h[:, i])
    return code


def decode(code: Array, alive: Array) -> Array:
    """Weights of the answers of `alive` workers whose sum is the whole gradient.

    Raises
    ------
    InvalidInput
        If they do not suffice.
    """
    rows = code[alive]
    weights, *_ = np.linalg.lstsq(rows.T, np.ones(code.shape[1]), rcond=None)
    if not np.allclose(weights @ rows, 1.0, atol=1e-6):
        raise InvalidInput(
            f"{int(np.sum(alive))} of {len(code)} workers cannot recover the gradient with this "
            "code; wait for more, or add redundancy."
        )
    return weights


def gilbert_elliott(
    workers: int, rounds: int, slow: float, stay: float, rng: np.random.Generator
) -> Array:
    """Straggler pattern (rounds, workers): slow with probability `slow` in the long run.

    A slow worker stays slow with probability `stay`.
    """
    enter = slow * (1.0 - stay) / (1.0 - slow)
    state = rng.random(workers) < slow
    out = np.empty((rounds, workers), bool)
    for t in range(rounds):
        out[t] = state
        state = np.where(state, rng.random(workers) < stay, rng.random(workers) < enter)
    return out


def selective_load(workers: int, window: int, burst: int, spread: int) -> tuple[int, float]:
    """Tolerated stragglers per round and load of coding with selective repetition.

    For patterns with at most `spread` distinct stragglers in any `window` rounds, each in bursts
    of at most `burst`: s = ceil(B lambda / (W - 1 + B)), load (s + 1) / n, delay B.
    """
    s = math.ceil(burst * spread / (window - 1 + burst))
    return s, (s + 1) / workers


@final
class GradientCoding(TrainingMethod):
    """Seconds per round of uncoded, coded and repeating schemes under bursty stragglers.

    Every worker's time is its load times the uncoded compute, `slowdown` times that when slow.
    Coding waits for the fastest n - s; decoding is done with the actual code in the tests.
    Selective repetition codes for fewer stragglers and repeats unfinished work `burst` rounds
    later; its load is shown for the simulated pattern, its rounds are not simulated.

    References
    ----------
    Tandon et al. 2017, Gradient Coding; Krishnan et al. 2023, Sequential Gradient Coding For
    Straggler Mitigation, ICLR 2023.
    """

    title: ClassVar[str] = "redundant work that stragglers cannot hold up"
    reference: ClassVar[str] = "Sequential Gradient Coding, ICLR 2023"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "workers": (64.0, "workers of a round"),
        "slow": (0.05, "share of time a worker is slow"),
        "stay": (0.6, "chance that a slow worker is slow again next round"),
        "slowdown": (15.0, "times a slow worker takes"),
        "rounds": (400.0, "rounds simulated"),
    }

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        n, rounds = int(settings["workers"]), int(settings["rounds"])
        if settings["slow"] >= 1 or settings["stay"] >= 1:
            raise InvalidInput("The shares slow and stay lie below 1.")
        rng = np.random.default_rng(0)
        pattern = gilbert_elliott(n, rounds, settings["slow"], settings["stay"], rng)
        jitter = rng.gamma(50.0, 1 / 50.0, pattern.shape)
        base = setting.compute_s(1) / n
        pace = np.where(pattern, settings["slowdown"], 1.0) * jitter
        records = [self._record("uncoded", 0, 1.0, base, pace, n)]
        typical = int(np.ceil(pattern.sum(axis=1).mean()))
        most = int(pattern.sum(axis=1).max())
        records += [
            self._record(f"coded, s={s}", s, s + 1.0, base, pace, n)
            for s in sorted({typical, (typical + most) // 2, most})
            if 0 < s < n
        ]
        burst, window = 2, 4
        spread = int(np.ceil(np.mean(
            [pattern[t : t + window].any(axis=0).sum() for t in range(rounds - window)]
        )))  # fmt: skip
        s, load = selective_load(n, window, burst, spread)
        records.append({"scheme": f"selective repetition, s={s}", "load": load, "round_s": None,
                        "p99_round_s": None})  # fmt: skip
        timed = [r for r in records if r["round_s"] is not None]
        best = min(timed, key=lambda r: r["round_s"])
        return MethodReport(
            title=f"{n} workers, {pattern.mean():.1%} slow at a time",
            columns=("scheme", "load", "round_s", "p99_round_s", "against_uncoded"),
            records=[
                {**r, "against_uncoded": r["round_s"] and records[0]["round_s"] / r["round_s"]}
                for r in records
            ],
            conclusion=f"Fastest is {best['scheme']}: "
            f"{records[0]['round_s'] / best['round_s']:.2f} times as fast as without coding.",
        )  # fmt: skip

    @staticmethod
    def _record(
        name: str, stragglers: int, load: float, base: float, pace: Array, workers: int
    ) -> dict[str, Any]:
        times = np.sort(pace * load * base, axis=1)
        waited = times[:, workers - 1 - stragglers]
        return {
            "scheme": name, "load": load / workers, "round_s": float(waited.mean()),
            "p99_round_s": float(np.quantile(waited, 0.99)),
        }  # fmt: skip


METHOD = GradientCoding()
