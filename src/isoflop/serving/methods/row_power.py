"""POLCA in time: a row of simulated servers, a capping policy, and servers added under it."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
from attrs import evolve, field, frozen

from ...cost.features import Array, Batch
from ...cost.power import at_clock, power_watts, step_load
from ...cost.step import StepModel
from ...errors import InvalidInput
from ..loop.records import N_LOG
from ..method import Method, MethodReport
from ..running import Running
from ..server import Server
from ..simulate import simulate
from ..traffic import Trace
from ..traffic.generate import Lengths, open_loop

SAMPLE_S = 5.0
"""Spacing of the row's power readings; commands take four times as long to act."""
HYSTERESIS = 0.05
"""How far below a threshold its caps are lifted, as a share of the budget."""
ADDED = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
MANY = 1 << 30
"""Requests that make the compiled loop worth its start."""


@final
class RowPower(Method):
    """Power of a row over time, and what a two-threshold capping policy does to it and to latency.

    Every server is an instance of the event simulator with Poisson traffic of its own; the row's
    power is read every five seconds from the prompt and decoding steps it ran. Above the first
    threshold of the row's budget low-priority servers lower their clocks, above the second they
    lower them further and the others follow; five percent below a threshold its caps are lifted.
    Commands take effect after `delay` seconds. From then on the server's steps take what the step
    model says at the lower clock, so slower steps let its queue and batch grow, which shows in
    power and latency both. `low_p99`, `high_p99` and `low_mean`, `high_mean` are end-to-end
    latencies over those of the same requests without any cap. Reaching the budget itself counts as
    a power brake, which the policy exists to avoid. `--out` writes the row's power over time,
    `--plot` draws it. Rows end with the first that reaches the budget.

    Checked: with the defaults 20% more servers on rows of eight A100 each and 40% on H100 never
    reach the budget, where the paper's simulation of its own clusters adds 30%. Thresholds and
    clocks are options near its own, not read from it. At fixed traffic a lower clock saves only
    what each request's products and cached bytes take less, which is most of why caps buy little
    here; a board's clock trees and memory path are priced as at full clock.

    References
    ----------
    Patel et al. 2023, POLCA: Power Oversubscription in LLM Cloud Providers, arXiv 2308.12908.
    """

    title: ClassVar[str] = "a row's power over time under a capping policy, and servers added to it"
    reference: ClassVar[str] = "POLCA, arXiv 2308.12908"
    example: ClassVar[str] = "llama-3.1-70b --on 8xa100-80gb-sxm --out power.csv"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "servers": (40.0, "servers the row's budget is provisioned for"),
        "load": (0.25, "traffic of a server as a share of what saturates it"),
        "prompt": (1024.0, "prompt tokens"), "output": (256.0, "output tokens"),
        "seconds": (600.0, "time simulated"),
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
        clocks = (1.0, s["first_clock"], s["second_clock"], s["high_clock"])
        if max(clocks) > 1 or s["seconds"] < 10 * SAMPLE_S:
            raise InvalidInput(
                f"Clocks are shares of the full one, at most 1, and at least {10 * SAMPLE_S:.0f} "
                "seconds are simulated."
            )
        levels = [Level.of(step, clock, s["prompt"] + s["output"]) for clock in clocks]
        rate = s["load"] * _capacity(levels[0].server, s)
        counts = sorted({max(1, round(s["servers"] * (1.0 + added))) for added in ADDED})
        traffic = [_traffic(s, rate, seed) for seed in range(counts[-1])]
        free = Row.of(levels, traffic, s, capped=False).run()
        budget = s["servers"] * step.plan.devices * (step.device.power.board_watts
                                                     + s["other_watts"])  # fmt: skip
        records, series = [], []
        for count in counts:
            row = free.first(count, budget)
            if row.peak >= s["first"]:
                row = Row.of(levels, traffic[:count], s, budget_watts=budget).run()
            records.append(row.record(free))
            series += row.series(free)
            if row.peak >= 1.0:
                break  # more servers only reach the budget oftener
        return MethodReport(
            title=f"A row provisioned for {s['servers']:.0f} servers, {rate:.3g} requests/s each",
            columns=("servers", "mean", "peak", "uncapped", "brakes", "low_mean", "low_p99",
                     "high_mean", "high_p99"),
            records=records, series=series, conclusion=_conclusion(records, s, budget),
        )  # fmt: skip


def _conclusion(records: list[dict[str, Any]], s: dict[str, float], budget: float) -> str:
    safe = [r for r in records if r["brakes"] == 0]
    if not safe:
        return f"The budget is {budget / 1e3:,.0f} kW. Even the provisioned number reaches it."
    best = safe[-1]
    return (
        f"The budget is {budget / 1e3:,.0f} kW. {best['servers']} servers "
        f"({best['servers'] / s['servers'] - 1:+.0%}) never reach it; low-priority requests then "
        f"take {best['low_mean'] - 1:+.1%} on average and {best['low_p99'] - 1:+.1%} at the 99th "
        f"percentile, the others {best['high_mean'] - 1:+.1%} and {best['high_p99'] - 1:+.1%}."
    )


@frozen(kw_only=True, eq=False)
class Level:
    """A server at one clock: its step times, and board power by what a step does.

    Attributes
    ----------
    sequences, contexts, decode_watts : array
        Knots of decoding power, shape (sequences, contexts).
    tokens, prompt_watts : array
        Knots of power of steps with prompts.
    """

    clock: float
    server: Server
    sequences: Array
    contexts: Array
    decode_watts: Array
    tokens: Array
    prompt_watts: Array

    @classmethod
    def of(cls, step: StepModel, clock: float, longest: float) -> Level:
        slow = step if clock >= 1.0 else step.at(clock)
        server = Server(step=slow, max_sequences=128, max_context=int(2 * longest))
        sequences = np.unique(np.round(np.geomspace(1, server.max_sequences, 24)))
        contexts = np.geomspace(16, 2 * longest, 8)
        tokens = np.unique(np.round(np.geomspace(16, server.max_tokens, 24)))
        decode = Batch(decode_sequences=sequences[:, None], decode_context=contexts[None, :])
        prompt = Batch(prefill_sequences=1.0, prefill_tokens=tokens)

        def watts(batch: Batch) -> Array:
            # Loads count against the full rates; the step takes what the lower clock allows.
            load = step_load(step, batch, slow.step_s(batch))
            return power_watts(step.device, at_clock(load, clock))

        return cls(
            clock=clock, server=server, sequences=sequences, contexts=contexts,
            decode_watts=watts(decode), tokens=tokens, prompt_watts=watts(prompt),
        )  # fmt: skip

    def watts(self, log: Array) -> Array:
        """Board power of the steps of an event log, shape (events,)."""
        decoding, amount, kind, context = log[:, 2], log[:, 5], log[:, 6], log[:, 7]
        prompt = np.interp(amount, self.tokens, self.prompt_watts)
        i = np.clip(np.searchsorted(self.sequences, decoding), 0, len(self.sequences) - 1)
        j = np.clip(np.searchsorted(self.contexts, context), 0, len(self.contexts) - 1)
        return np.where(kind > 0, prompt, self.decode_watts[i, j])


def _capacity(server: Server, s: dict[str, float]) -> float:
    """Requests per second of a saturated server."""
    burst = open_loop(requests=600, requests_per_s=1e5, prompt=Lengths(median=s["prompt"]),
                      output=Lengths(median=s["output"]))  # fmt: skip
    return float(simulate(server, burst).summary["requests_per_s"])


def _traffic(s: dict[str, float], rate: float, seed: int) -> Trace:
    """Requests of one server."""
    return open_loop(
        requests=max(20, int(rate * s["seconds"])), requests_per_s=rate,
        prompt=Lengths(median=s["prompt"]), output=Lengths(median=s["output"]), seed=seed,
    )  # fmt: skip


@frozen(kw_only=True, eq=False)
class Outcome:
    """A row that has run.

    Attributes
    ----------
    servers_watts : array
        Power of every server's devices and the rest of it at every reading, shape (servers, n).
    states : array
        Clock levels of low- and high-priority servers at every reading, shape (n, 2).
    latency_s : list of array
        End-to-end latency of every server's requests.
    """

    low: Array
    servers_watts: Array
    states: Array
    latency_s: list[Array]
    budget_watts: float

    def first(self, count: int, budget_watts: float) -> Outcome:
        """The first `count` servers as a row of their own: without caps nobody sees the others."""
        return evolve(self, low=self.low[:count], servers_watts=self.servers_watts[:count],
                      latency_s=self.latency_s[:count], budget_watts=budget_watts)  # fmt: skip

    @property
    def peak(self) -> float:
        """Highest reading as a share of the budget."""
        return float(self.servers_watts.sum(axis=0).max() / self.budget_watts)

    def record(self, free: Outcome) -> dict[str, Any]:
        """Power as shares of the budget, and latency over that of the row without caps."""
        power = self.servers_watts.sum(axis=0) / self.budget_watts
        loose = free.servers_watts[: len(self.low)].sum(axis=0) / self.budget_watts
        found: dict[str, Any] = {
            "servers": len(self.low), "mean": float(power.mean()), "peak": float(power.max()),
            "uncapped": float(loose.max()),
            "capped_low": float((self.states[:, 0] > 0).mean()),
            "capped_high": float((self.states[:, 1] > 0).mean()),
            "brakes": int((power >= 1.0).sum()),
        }  # fmt: skip
        for name, group in (("low", self.low), ("high", ~self.low)):
            mine = [self.latency_s[i] for i in np.nonzero(group)[0]]
            base = [free.latency_s[i] for i in np.nonzero(group)[0]]
            a, b = (np.concatenate(x) if x else np.ones(1) for x in (mine, base))
            found[f"{name}_mean"] = float(a.mean() / b.mean())
            found[f"{name}_p99"] = float(np.quantile(a, 0.99) / np.quantile(b, 0.99))
        return found

    def series(self, free: Outcome) -> list[dict[str, Any]]:
        """One record per power reading."""
        power = self.servers_watts.sum(axis=0)
        loose = free.servers_watts[: len(self.low)].sum(axis=0)
        return [
            {"servers": len(self.low), "time_s": t * SAMPLE_S, "watts": float(power[t]),
             "uncapped_watts": float(loose[t]), "budget_watts": self.budget_watts,
             "low_level": int(self.states[t, 0]), "high_level": int(self.states[t, 1])}
            for t in range(len(power))
        ]  # fmt: skip


@frozen(kw_only=True, eq=False)
class Row:
    """Servers under one budget, advanced from power reading to power reading."""

    levels: list[Level]
    settings: dict[str, float]
    low: Array
    instances: list[Running]
    budget_watts: float
    orders: list[tuple[int, tuple[int, int]]] = field(factory=list)

    @classmethod
    def of(
        cls, levels: list[Level], traffic: list[Trace], s: dict[str, float], *,
        budget_watts: float = np.inf, capped: bool = True,
    ) -> Row:  # fmt: skip
        """The row before its first request; without caps its budget is never felt."""
        server = levels[0].server
        instances = []
        for trace in traffic:
            instance = Running(server, capacity=len(trace), expected=MANY, events=8192)
            instance.feed(trace)
            instances.append(instance)
        share = s["low_priority"]
        order = np.arange(len(traffic))
        low = np.floor((order + 1) * share) > np.floor(order * share)
        return cls(levels=levels, settings=s, low=low, instances=instances,
                   budget_watts=budget_watts if capped else np.inf)  # fmt: skip

    def run(self) -> Outcome:
        """Every reading until the time is over, then the requests still running."""
        s, devices = self.settings, self.levels[0].server.step.plan.devices
        readings = int(s["seconds"] / SAMPLE_S)
        idle = self.levels[0].server.step.device.power.idle_watts
        watts = np.zeros((len(self.instances), readings))
        carried = np.zeros(len(self.instances))
        states = np.zeros((readings, 2), int)
        state = (0, 0)
        for t in range(readings):
            while self.orders and self.orders[0][0] <= t:
                state = self.orders.pop(0)[1]
            states[t] = state
            joules = np.zeros(len(self.instances))
            for group, place in ((self.low, state[0]), (~self.low, state[1])):
                mine = np.nonzero(group)[0]
                joules[mine], carried[mine] = _advance(
                    [self.instances[i] for i in mine], self.levels[place], (t + 1) * SAMPLE_S, idle,
                    carried[mine],
                )  # fmt: skip
            watts[:, t] = devices * (idle + joules / SAMPLE_S + s["other_watts"])
            self._decide(t, float(watts[:, t].sum()) / self.budget_watts, state)
        for instance in self.instances:
            instance.advance()
        return Outcome(
            low=self.low, servers_watts=watts, states=states, budget_watts=self.budget_watts,
            latency_s=[x.requests.finish - x.requests.arrival for x in self.instances],
        )  # fmt: skip

    def _decide(self, t: int, share: float, state: tuple[int, int]) -> None:
        aim = self.orders[-1][1] if self.orders else state
        want = _policy(share, aim, self.settings)
        if want != aim:
            self.orders.append((t + max(1, round(self.settings["delay"] / SAMPLE_S)), want))


def _advance(
    instances: list[Running], level: Level, until_s: float, idle: float, carried: Array
) -> tuple[Array, Array]:
    """Run servers to a time at a clock: joules above idle per device, and what runs over it.

    A step under way at the reading belongs to both sides of it.
    """
    logs = []
    for instance in instances:
        instance.tables = level.server.times.tables
        instance.advance(until_s)
        logs.append(instance.state.log[: instance.whole(N_LOG)])
        instance.state.whole[N_LOG] = 0
    if not any(len(x) for x in logs):
        return carried, np.zeros(len(instances))
    owner = np.repeat(np.arange(len(logs)), [len(x) for x in logs])
    log = np.concatenate(logs)
    joules = (level.watts(log) - idle) * log[:, 1]
    over = np.clip((log[:, 0] + log[:, 1] - until_s) / np.maximum(log[:, 1], 1e-12), 0.0, 1.0)
    inside, outside = (np.bincount(owner, joules * share, len(logs)) for share in (1 - over, over))
    return carried + inside, outside


def _policy(share: float, state: tuple[int, int], s: dict[str, float]) -> tuple[int, int]:
    """Clock levels of low- and high-priority servers wanted at a share of the budget."""
    if share >= s["second"]:
        return 2, 3
    if state == (2, 3) and share >= s["second"] - HYSTERESIS:
        return state
    if share >= s["first"] or (state != (0, 0) and share >= s["first"] - HYSTERESIS):
        return 1, 0
    return 0, 0


METHOD = RowPower()
