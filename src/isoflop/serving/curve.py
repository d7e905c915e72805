"""What the closed form says of one configuration: steps, batch and latency at a load."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from attrs import evolve, frozen

from ..cost.features import Batch
from ..cost.step import StepModel
from ..units import show_s
from .server import Server
from .slo import Promise
from .transfer import transfer_s

BUDGET = 8192
"""Token budget of a step of a candidate until another is tried."""
HEADROOM = 0.95
"""Share of an instance's capacity that a stable queue may use in the closed form."""


@frozen(kw_only=True)
class Load:
    """Traffic in the closed form: rate or clients, and mean lengths.

    Attributes
    ----------
    requests_per_s, prompt, output : float
        Means; prompt is what is left to compute after prefix hits. The rate is 0 in a closed loop,
        where it follows from the answer.
    context : float
        Mean cached tokens of a decoding sequence.
    longest : int
        Tokens of the longest request.
    whole : float
        Mean prompt with its prefix, whose cache a split sends; 0: as `prompt`.
    clients : int
        Closed loop: so many clients, each with one request at a time; 0: arrivals are given.
    think_s : float
        Mean seconds between a client's answer and its next request.
    whole_chains : bool
        Whether requests follow each other, so that none can be left out.
    """

    requests_per_s: float
    prompt: float
    output: float
    context: float
    longest: int
    whole: float = 0.0
    clients: int = 0
    think_s: float = 0.0
    whole_chains: bool = False


@frozen(kw_only=True, eq=False)
class Candidate:
    """One configuration and what the closed form says of it.

    Attributes
    ----------
    replicas : int
        Fewest instances that carry the load within the promises.
    usd_per_hour : float
        Price of the devices used; device count where no price is known.
    tpot_s, ttft_s : float
        Mean estimates.
    requests_per_s : float
        In a closed loop what all replicas together serve; 0 where the load says it.
    prefills : int
        Of the replicas, those that only compute prompts and send their cache to the others; 0
        where every replica does both.
    """

    step: StepModel
    max_sequences: int
    max_tokens: int
    share: int
    replicas: int
    batch: float
    tpot_s: float
    ttft_s: float
    usd_per_hour: float
    prefills: int = 0
    requests_per_s: float = 0.0

    @property
    def devices(self) -> int:
        """Devices in use."""
        return math.ceil(self.replicas / self.share) * self.step.plan.devices

    @property
    def decodes(self) -> int:
        """Replicas that decode."""
        return self.replicas - self.prefills

    def with_replicas(self, replicas: int, prefills: int = 0) -> Candidate:
        """The same configuration on more replicas."""
        hosts = math.ceil(self.replicas / self.share)
        price = self.usd_per_hour / hosts * math.ceil(replicas / self.share)
        return evolve(self, replicas=replicas, prefills=prefills, usd_per_hour=price)

    def server(self, **options: Any) -> Server:
        """As something to simulate."""
        return Server(
            step=self.step, max_sequences=self.max_sequences, max_tokens=self.max_tokens,
            share=self.share, **options,
        )  # fmt: skip

    def describe(self) -> str:
        """Short text for people."""
        f = self.step.plan.formats
        share = f", {self.share} per device" if self.share > 1 else ""
        split = f" ({self.prefills} prefill, {self.decodes} decode)" if self.prefills else ""
        return (
            f"{self.replicas} x {self.step.plan.describe()}{split} on {self.devices} "
            f"{self.step.device.id}, weights {f.stored}, cache {f.kv}{share}, "
            f"{self.max_sequences} sequences, {self.max_tokens} tokens per step"
        )

    def short(self) -> str:
        """One line of a table: replicas (prefill + decode), device, plan and formats."""
        f = self.step.plan.formats
        share = f" ({self.share}/device)" if self.share > 1 else ""
        plan = self.step.plan.describe().replace("single device", "tp1")
        count = f"{self.prefills}+{self.decodes}" if self.prefills else f"{self.replicas}"
        return f"{count} x {self.step.device.id} {plan}{share}, {f.stored}, kv {f.kv}"


@frozen(kw_only=True)
class Rejected:
    """A configuration that cannot work: what it is, why, and by how much.

    Attributes
    ----------
    excess : float
        What is needed over what there is, above 1; infinity where no number says how far it is.
    """

    what: str
    why: str
    kind: str
    excess: float = math.inf


@frozen(kw_only=True, eq=False, slots=False)
class Curve:
    """Step seconds of one instance over its batch, and of a mean prompt."""

    step: StepModel
    load: Load
    batches: Any
    decode_s: Any
    busy_s: Any
    prompt_s: float

    @classmethod
    def of(cls, step: StepModel, load: Load) -> Curve:
        b = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024], float)
        plan = step.plan
        whole = min(max(load.prompt, 1.0), 8192.0)
        together = max(1.0, np.floor(8192.0 / whole)) * plan.data
        # Priced in one go: the decoding batches, and behind them a step full of mean prompts.
        prompts = np.append(np.zeros(len(b)), together / plan.data)
        *decode, full = step.step_s(Batch(
            decode_sequences=np.append(b / (plan.data * plan.pipeline), 0.0),
            decode_context=load.context, prefill_sequences=prompts,
            prefill_tokens=np.where(prompts > 0, whole, 0.0),
        ))  # fmt: skip
        decode, share = np.array(decode), float(full) / together
        fixed = step.engine.scale(step.device.family) * (1 - step.engine.captured) * step.launch_s
        idle = step.engine.overhead_s(b, step.model.depth) + fixed
        busy = decode - np.minimum(idle, 0.5 * decode)
        engine = step.engine.prefill_scale
        return cls(step=step, load=load, batches=b, decode_s=decode, busy_s=busy,
                   prompt_s=engine * share * max(load.prompt, 1.0) / whole)  # fmt: skip

    def candidate(
        self, running: int, share: int, promises: Sequence[Promise], fleet: int
    ) -> Candidate | Rejected:
        """The fewest replicas at which the closed form keeps every promise."""
        if running < 1:
            return Rejected(what="", why="no room for the cache of one sequence", kind="memory")
        load, plan = self.load, self.step.plan
        most = fleet // plan.devices * share
        contended = np.maximum(self.decode_s, share * self.busy_s)
        if load.clients:
            return self._closed(running, share, promises, min(most, load.clients), contended)
        decode = np.interp(running, self.batches, contended)
        # A device-second serves prompts or decoding; what is left of it bounds the rate.
        need = load.requests_per_s * (self.prompt_s * share + load.output * decode / running)
        least = max(1, math.ceil(need / HEADROOM))
        if least > most:
            needed = math.ceil(least / share) * plan.devices
            why = (f"needs {needed} devices for {load.requests_per_s:.3g} requests/s, the fleet "
                   f"has {fleet}")  # fmt: skip
            return Rejected(what="", why=why, kind="capacity", excess=needed / fleet)
        worst, tpot, ttft = "", 0.0, 0.0
        for replicas in range(least, most + 1):
            rate = load.requests_per_s / replicas
            batch, tpot, ttft = self._settle(rate, running, share, contended)
            worst = broken(promises, tpot, ttft)
            if not worst:
                return self._made(running, share, replicas, batch, tpot, ttft)
        return Rejected(what="", why=worst, kind="latency", excess=excess_of(promises, tpot, ttft))

    def _made(
        self, running: int, share: int, replicas: int, batch: float, tpot: float, ttft: float,
        prefills: int = 0, requests_per_s: float = 0.0,
    ) -> Candidate:  # fmt: skip
        price = self.step.device.price
        each = 1.0 if price is None else price.on_demand_usd_per_hour
        return Candidate(
            step=self.step, max_sequences=running, max_tokens=BUDGET, share=share,
            replicas=replicas, batch=batch, tpot_s=tpot, ttft_s=ttft, prefills=prefills,
            usd_per_hour=math.ceil(replicas / share) * self.step.plan.devices * each,
            requests_per_s=requests_per_s,
        )  # fmt: skip

    def _closed(
        self, running: int, share: int, promises: Sequence[Promise], most: int, decode_s: Any
    ) -> Candidate | Rejected:
        """The fewest of at most `most` replicas that the clients may share.

        A closed loop overloads nothing: with fewer replicas everybody waits longer, and latency
        alone says how few are too few.
        """
        clients = self.load.clients

        def at(replicas: int) -> tuple[float, float, float, float]:
            return self.at_clients(math.ceil(clients / replicas), running, share, decode_s)

        _, tpot, ttft, _ = at(most)
        worst = broken(promises, tpot, ttft)
        if worst:
            return Rejected(what="", why=worst, kind="latency",
                            excess=excess_of(promises, tpot, ttft))  # fmt: skip
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            _, tpot, ttft, _ = at(middle)
            low, high = (middle, high) if broken(promises, tpot, ttft) else (low, middle)
        batch, tpot, ttft, rate = at(high)
        total = rate * clients / math.ceil(clients / high)
        return self._made(running, share, high, batch, tpot, ttft, requests_per_s=total)

    def at_clients(
        self, clients: int, running: int, share: int, decode_s: Any
    ) -> tuple[float, float, float, float]:
        """Batch, TPOT, TTFT and requests per second of one instance with so many clients.

        `running` of them are served at once, the others queue: the instance then works as for
        that many clients who never pause, and C = X (queue + life + think) says how long.
        """
        think = self.load.think_s
        batch, tpot, ttft, rate = self._loop(clients, think, share, decode_s)
        life = ttft + (self.load.output - 1.0) * tpot
        if clients <= running or rate * life <= running:
            return batch, tpot, ttft, rate
        batch, tpot, ttft, rate = self._loop(running, 0.0, share, decode_s)
        life = ttft + (self.load.output - 1.0) * tpot
        return batch, tpot, ttft + max(0.0, clients / rate - think - life), rate

    def _loop(
        self, clients: int, think_s: float, share: int, decode_s: Any
    ) -> tuple[float, float, float, float]:
        """`at_clients` where all that ask are served at once.

        A batch b decodes in the time that the others' prompts leave, so its rate is
        X = b / (output t(b) + b s), with t(b) seconds of a step and s seconds of prompt work per
        request. Of that work a request sees the share (C - 1) / C of the other clients, as they
        would load the instance alone (arrival theorem). X (life + think) clients then keep b
        sequences decoding; both grow with b, so bisection finds the batch of C clients.

        References
        ----------
        Reiser and Lavenberg 1980, Mean-Value Analysis of Closed Multichain Queuing Networks.
        """
        load, work = self.load, self.prompt_s * share
        others = (clients - 1) / clients
        xs, ys = self.batches.tolist(), decode_s.tolist()

        def at(batch: float) -> tuple[float, float, float, float]:
            step = _interpolated(batch, xs, ys)
            rate = batch / (load.output * step + batch * work * others)
            stolen = rate * work * others
            tpot = step / (1.0 - stolen)
            wait = min(stolen / (1.0 - stolen) / 2.0, clients - 1.0) * work
            ttft = self.prompt_s + wait + tpot + self.step.engine.arrival_s
            return rate, tpot, ttft, ttft + (load.output - 1.0) * tpot + think_s

        low, high = 1e-6, float(clients)
        for _ in range(40):
            middle = math.sqrt(low * high)
            rate, _, _, cycle = at(middle)
            low, high = (middle, high) if rate * cycle < clients else (low, middle)
        rate, tpot, ttft, _ = at(high)
        return high, tpot, ttft, rate

    @cached_property
    def sent_s(self) -> float:
        """Seconds to send the cache of a mean prompt to another instance."""
        return float(transfer_s(self.step, np.array(self.load.whole or self.load.prompt)))

    def split(self, running: int, promises: Sequence[Promise], fleet: int) -> Candidate | Rejected:
        """The fewest prefill and decode instances at which the closed form keeps every promise.

        The pools are independent: prompts see each other alone, decoding sees no prompts, and the
        cache travels once per request.
        """
        if running < 1:
            return Rejected(what="", why="no room for the cache of one sequence", kind="memory")
        load, plan = self.load, self.step.plan
        most = fleet // plan.devices
        sent = self.sent_s
        slowest = np.interp(running, self.batches, self.decode_s)
        prefills = max(1, math.ceil(load.requests_per_s * self.prompt_s / HEADROOM))
        decodes = max(1, math.ceil(load.requests_per_s * load.output * slowest / running
                                   / HEADROOM))  # fmt: skip
        worst, kind, tpot, ttft = "", "capacity", 0.0, 0.0
        while prefills + decodes <= most:
            busy = min(load.requests_per_s / prefills * self.prompt_s, 0.98)
            ttft = self.prompt_s * (1.0 + busy / (1.0 - busy) / 2.0) + self.step.engine.arrival_s
            batch, tpot = self._batch(load.requests_per_s / decodes, running, self.decode_s, 0.0)
            tpot += sent / max(load.output - 1.0, 1.0)
            worst = broken(promises, tpot, ttft)
            if not worst:
                return self._made(running, 1, prefills + decodes, batch, tpot, ttft, prefills)
            kind = "latency"
            if broken(promises, 0.0, ttft):
                prefills += 1
            else:
                decodes += 1
        needed = (prefills + decodes) * plan.devices
        why = worst or (f"needs {needed} devices for {load.requests_per_s:.3g} requests/s, the "
                        f"fleet has {fleet}")  # fmt: skip
        excess = excess_of(promises, tpot, ttft) if worst else needed / fleet
        return Rejected(what="", why=why, kind=kind, excess=excess)

    def _batch(
        self, rate: float, running: int, decode_s: Any, stolen: float
    ) -> tuple[float, float]:
        """Batch and TPOT at `rate` requests/s: batch = rate x life, by bisection."""
        output = self.load.output
        xs, ys = self.batches.tolist(), decode_s.tolist()
        low, high = 0.01, float(running)
        for _ in range(30):
            middle = math.sqrt(low * high)
            tpot = _interpolated(middle, xs, ys) / (1.0 - stolen)
            low, high = (middle, high) if rate * output * tpot > middle else (low, middle)
        return high, _interpolated(high, xs, ys) / (1.0 - stolen)

    def _settle(
        self, rate: float, running: int, share: int, decode_s: Any
    ) -> tuple[float, float, float]:
        """Batch, TPOT and TTFT at `rate` requests/s."""
        stolen = min(rate * self.prompt_s * share, 0.98)
        high, tpot = self._batch(rate, running, decode_s, stolen)
        wait = stolen / (1.0 - stolen) * self.prompt_s * share / 2.0
        extra = self.step.engine.arrival_s
        return high, tpot, self.prompt_s + wait + tpot + extra


def _interpolated(x: float, xs: list[float], ys: list[float]) -> float:
    """`np.interp` of one number, ten times as fast: a search asks for thousands of single ones."""
    if x >= xs[-1]:
        return ys[-1]
    j = bisect_right(xs, x) - 1
    if j < 0:
        return ys[0]
    return (ys[j + 1] - ys[j]) / (xs[j + 1] - xs[j]) * (x - xs[j]) + ys[j]


def broken(promises: Sequence[Promise], tpot: float, ttft: float) -> str:
    """The promise that mean estimates already break, or nothing.

    A percentile is above the mean for these skewed times, so a mean above the limit is a proof
    within the model's error, and everything else goes to the simulator.
    """
    for p in promises:
        value = {"tpot": tpot, "ttft": ttft}.get(p.metric)
        if value is not None and value > p.limit_s:
            return f"{p.metric} would be {show_s(value)} on average, above {p}"
    return ""


def excess_of(promises: Sequence[Promise], tpot: float, ttft: float) -> float:
    """The mean estimates over their limits, the worst of them."""
    values = {"tpot": tpot, "ttft": ttft}
    return max((values[p.metric] / p.limit_s for p in promises if p.metric in values),
               default=math.inf)  # fmt: skip
