"""POLCA in time: a row of simulated servers, a capping policy, and servers added under it."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
from attrs import frozen

from ...cost.features import Array, Batch
from ...cost.matrix import roofline_s
from ...cost.power import at_clock, power_watts, step_load
from ...cost.step import StepModel
from ...errors import InvalidInput
from ..loop.records import N_LOG
from ..method import Method, MethodReport
from ..server import Server
from ..simulate import simulate
from ..traffic.generate import Lengths, open_loop

LEAST_SAMPLE_S = 1.0
"""Spacing of the row's power readings."""
SERIES = 12
"""Independent simulated servers; the row's others are these, shifted in time."""
ADDED = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


@frozen(kw_only=True)
class _Levels:
    """One server's power and pace over time, by clock: (clocks, seconds)."""

    watts: Array
    slowdown: Array


@final
class RowPower(Method):
    """Power of a row second by second, and what a two-threshold capping policy does to it.

    Each server runs the event simulator on its own Poisson traffic; its board power follows the
    prompt and decoding steps. Above the first threshold of the row's budget low-priority servers
    lower their clocks, above the second they lower them further and the others follow; five
    percent below a threshold its caps are lifted. Commands take effect after `delay` seconds.
    Reaching the budget itself counts as a power brake, which the policy exists to avoid. Slower
    steps stretch the load they carry; that feedback on power is left out.

    References
    ----------
    Patel et al. 2023, POLCA: Power Oversubscription in LLM Cloud Providers, arXiv 2308.12908.
    """

    title: ClassVar[str] = "a row's power over time under a capping policy, and servers added to it"
    reference: ClassVar[str] = "POLCA, arXiv 2308.12908"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "servers": (40.0, "servers the row's budget is provisioned for"),
        "load": (0.25, "traffic of a server as a share of what saturates it"),
        "prompt": (1024.0, "prompt tokens"), "output": (256.0, "output tokens"),
        "seconds": (1800.0, "time simulated"),
        "other_watts": (300.0, "draw of the rest of a server per device, provisioned and constant"),
        "low_priority": (0.5, "share of servers whose work may wait"),
        "first": (0.80, "first threshold, as a share of the budget"),
        "second": (0.89, "second threshold"),
        "first_clock": (0.9, "clock of low-priority servers above the first"),
        "second_clock": (0.79, "clock of low-priority servers above the second"),
        "high_clock": (0.93, "clock of the other servers above the second"),
        "delay": (20.0, "seconds until a command takes effect"),
    }  # fmt: skip

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        s = settings
        if not s["first"] < s["second"] < 1 or s["low_priority"] > 1:
            raise InvalidInput(
                "The first threshold lies below the second and the second below 1; the share of "
                "low-priority servers is at most 1."
            )
        server = Server(step=step, max_sequences=128)
        rate = s["load"] * _capacity(server, s)
        clocks = (1.0, s["first_clock"], s["second_clock"], s["high_clock"])
        levels = [_series(server, s, rate, clocks, seed) for seed in range(SERIES)]
        devices = step.plan.devices
        budget = s["servers"] * devices * (step.device.power.board_watts + s["other_watts"])
        records = [
            _row(levels, s, devices, budget, round(s["servers"] * (1.0 + added))) for added in ADDED
        ]
        safe = [r for r in records if r["brakes"] == 0]
        best = safe[-1] if safe else None
        verdict = (
            "Even the provisioned number reaches the budget." if best is None else
            f"{best['servers']} servers ({best['servers'] / s['servers'] - 1:+.0%}) never reach "
            f"it; low-priority work then takes {best['low_slowdown']:.3f} times as long, the rest "
            f"{best['high_slowdown']:.3f} times."
        )  # fmt: skip
        return MethodReport(
            title=f"A row provisioned for {s['servers']:.0f} servers, {rate:.3g} requests/s each",
            columns=("servers", "mean", "peak", "uncapped_peak", "capped_low", "capped_high",
                     "brakes", "low_slowdown", "high_slowdown"),
            records=records,
            conclusion=f"The budget is {budget / 1e3:,.0f} kW. " + verdict,
        )  # fmt: skip


def _capacity(server: Server, s: dict[str, float]) -> float:
    """Requests per second of a saturated server."""
    burst = open_loop(requests=600, requests_per_s=1e5, prompt=Lengths(median=s["prompt"]),
                      output=Lengths(median=s["output"]))  # fmt: skip
    return float(simulate(server, burst).summary["requests_per_s"])


def _series(
    server: Server, s: dict[str, float], rate: float, clocks: tuple[float, ...], seed: int
) -> _Levels:
    """Watts per device and slowdown of one simulated server in every second, at each clock."""
    requests = max(20, int(rate * s["seconds"]))
    trace = open_loop(requests=requests, requests_per_s=rate, prompt=Lengths(median=s["prompt"]),
                      output=Lengths(median=s["output"]), seed=seed)  # fmt: skip
    report = simulate(server, trace, events=400 * requests + 1000)
    instance = report.instances[0]
    log = instance.state.log[: instance.whole(N_LOG)]
    start, length, decoding, kind = log[:, 0], log[:, 1], log[:, 2], log[:, 6] > 0
    amount, context = log[:, 5], np.maximum(log[:, 7], s["prompt"])
    seconds = np.arange(int(min(s["seconds"], start[-1])) + 1, dtype=float)
    device = server.step.device
    watts, slow = [], []
    for clock in clocks:
        drawn, pace = _step_levels(server.step, decoding, context, kind, amount, clock)
        watts.append(_binned(seconds, start, length, drawn - device.power.idle_watts)
                     + device.power.idle_watts)  # fmt: skip
        slow.append(1.0 + _binned(seconds, start, length, pace - 1.0))
    return _Levels(watts=np.array(watts), slowdown=np.array(slow))


def _step_levels(
    step: StepModel, decoding: Array, context: Array, kind: Array, amount: Array, clock: float
) -> tuple[Array, Array]:
    """Board power and slowdown of steps at a clock."""
    batch = Batch(
        decode_sequences=decoding, decode_context=context,
        prefill_sequences=np.where(kind, 1.0, 0.0), prefill_tokens=np.where(kind, amount, 0.0),
    )  # fmt: skip
    parts = roofline_s(step.matrix, step.peaks, batch)
    times = step.operator_s(batch)
    bound = parts["compute"] > np.maximum(parts["memory"], parts["network"])
    share = np.where(bound, times, 0.0).sum(axis=0) / times.sum(axis=0)
    pace = 1.0 - share + share / clock
    seconds = step.step_s(batch) * pace
    load = at_clock(step_load(step, batch, seconds), clock)
    return power_watts(step.device, load), pace


def _binned(seconds: Array, start: Array, length: Array, value: Array) -> Array:
    """Mean of `value` over each second, zero between steps."""
    edges = np.append(seconds, seconds[-1] + LEAST_SAMPLE_S)
    points = np.stack([start, start + length], axis=1).ravel()
    total = np.concatenate([[0.0], np.cumsum(value * length)])
    heights = np.stack([total[:-1], total[1:]], axis=1).ravel()
    return np.diff(np.interp(edges, points, heights)) / LEAST_SAMPLE_S


def _row(
    levels: list[_Levels], s: dict[str, float], devices: int, budget: float, servers: int
) -> dict[str, Any]:
    """The row's power and caps, second by second."""
    rng = np.random.default_rng(7)
    length = min(x.watts.shape[1] for x in levels)
    pick = np.arange(servers) % len(levels)
    shift = rng.integers(0, length, servers)
    place = (np.arange(length)[None, :] + shift[:, None]) % length
    watts = np.stack([levels[p].watts[:, i] for p, i in zip(pick, place)])  # server, clock, s
    slow = np.stack([levels[p].slowdown[:, i] for p, i in zip(pick, place)])
    low = np.arange(servers) < round(s["low_priority"] * servers)
    sums = {True: watts[low].sum(axis=0), False: watts[~low].sum(axis=0)}
    other = servers * devices * s["other_watts"]
    state, orders = (0, 0), []
    power, states = np.empty(length), np.zeros((length, 2), int)
    delay = max(1, round(s["delay"]))
    for t in range(length):
        while orders and orders[0][0] <= t:
            state = orders.pop(0)[1]
        states[t] = state
        drawn = devices * (sums[True][state[0], t] + sums[False][state[1], t]) + other
        power[t] = drawn
        aim = orders[-1][1] if orders else state
        want = _policy(drawn / budget, aim, s)
        if want != aim:
            orders.append((t + delay, want))
    free = devices * (sums[True][0] + sums[False][0]) + other
    seconds = np.arange(length)

    def pace(group: Array, column: int) -> float:
        return float(slow[group][:, states[:, column], seconds].mean()) if group.any() else 1.0

    return {
        "servers": servers, "mean": float(power.mean() / budget),
        "peak": float(power.max() / budget),
        "uncapped_peak": float(free.max() / budget),
        "capped_low": float((states[:, 0] > 0).mean()),
        "capped_high": float((states[:, 1] > 0).mean()),
        "brakes": int((power >= budget).sum()),
        "low_slowdown": pace(low, 0), "high_slowdown": pace(~low, 1),
    }  # fmt: skip


def _policy(share: float, state: tuple[int, int], s: dict[str, float]) -> tuple[int, int]:
    """Clock levels of low- and high-priority servers wanted at a share of the budget."""
    if share >= s["second"]:
        return 2, 3
    if state == (2, 3) and share >= s["second"] - 0.05:
        return state
    if share >= s["first"] or (state != (0, 0) and share >= s["first"] - 0.05):
        return 1, 0
    return 0, 0


METHOD = RowPower()
