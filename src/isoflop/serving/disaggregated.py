"""Prefill and decode on instances of their own, the cache sent from one to the other."""

from __future__ import annotations

import time

import numpy as np
from attrs import evolve

from ..cost.features import Batch
from ..cost.power import settled
from ..errors import InvalidInput
from .report import Collected, ServingReport, make_report
from .running import Running
from .server import Server
from .simulate import admissible
from .traffic import Trace
from .transfer import transfer_s


def simulate_split(
    server: Server, trace: Trace, *, prefills: int, decodes: int, drop_long: bool = False
) -> ServingReport:
    """`prefills` instances compute prompts and first tokens, `decodes` the rest.

    Requests go to the prefill instances in turn, and to the decode instances in the order in
    which their caches arrive. Decoding never slows prompts, so one pool is simulated after the
    other. Prompts one after another spend the board's power, so the prefill pool runs at the clock
    that its share of busy time allows.

    Raises
    ------
    InvalidInput
        If the requests of the trace wait for each other: their arrival would depend on both pools.

    References
    ----------
    Zhong et al. 2024, DistServe, arXiv 2401.09670; Patel et al. 2024, Splitwise, arXiv 2311.18677.
    """
    began = time.perf_counter()
    if trace.follows is not None:
        raise InvalidInput("Closed loops and conversations cannot be split into two pools yet.")
    trace, dropped = admissible(server, trace, drop_long)
    n = len(trace)
    first = np.zeros(n)
    pool, parts = [], []
    prompting = _at_settled_clock(server, trace, prefills)
    for j in range(prefills):
        part = np.arange(j, n, prefills)
        if not len(part):
            continue
        mine = trace.take(part)
        instance = _instance(prompting, mine)
        instance.feed(evolve(mine, output_tokens=np.ones(len(part), np.int64)))
        instance.advance()
        first[part] = instance.requests.first[: len(part)]
        pool.append(instance)
        parts.append(part)
    sent = transfer_s(server.step, trace.prompt_tokens)
    arrival = first + np.where(trace.output_tokens > 1, sent, 0)
    order = np.argsort(arrival, kind="stable")
    finish = first.copy()
    decoding = order[trace.output_tokens[order] > 1]
    for j in range(decodes):
        part = decoding[j::decodes]
        if not len(part):
            continue
        mine = evolve(trace.take(part), arrival_s=arrival[part], units=np.zeros(0, np.int64),
                      unit_offsets=None, unit_tokens=0)  # fmt: skip
        instance = _instance(server, mine)
        instance.feed(mine, computed=mine.prompt_tokens)
        instance.advance()
        finish[part] = instance.requests.finish[: len(part)]
        pool.append(instance)
    base = Collected.of(pool[: len(parts)], parts, trace)
    output = np.asarray(trace.output_tokens, float)
    extra = server.step.engine.arrival_s
    collected = evolve(
        base, e2e_s=finish - trace.arrival_s + extra, finish_s=finish,
        tpot_s=np.where(output > 1, (finish - first) / np.maximum(output - 1, 1), np.nan),
        last_s=float(finish.max()),
    )  # fmt: skip
    report = make_report(
        server, trace, collected, pool, replicas=prefills + decodes, dropped=dropped,
        wall_s=time.perf_counter() - began,
        servers=[prompting] * len(parts) + [server] * (prefills + decodes - len(parts)),
    )  # fmt: skip
    return evolve(report, summary={**report.summary, "split": {"prefill": prefills,
                                                                "decode": decodes}})  # fmt: skip


def _at_settled_clock(server: Server, trace: Trace, prefills: int) -> Server:
    """What a prefill instance is while the trace's prompts keep it busy."""
    step, prompt = server.step, float(np.mean(trace.prompt_tokens))
    chunk = Batch(prefill_sequences=1.0, prefill_tokens=min(prompt, float(server.max_tokens)))
    each = float(step.prefill_s(np.array(float(step.plan.data)), np.array(prompt)))
    span = float(trace.arrival_s[-1] - trace.arrival_s[0])
    work = len(trace) * each / (step.plan.data * prefills)
    held = settled(step, chunk, busy=min(1.0, work / max(span, 1e-12)))
    return server if held.clock is None else evolve(server, step=held)


def _instance(server: Server, trace: Trace) -> Running:
    units = int(trace.units.max()) + 1 if len(trace.units) else 0
    return Running(
        server, capacity=len(trace), unit_tokens=trace.unit_tokens, units=units,
        users=int(trace.user.max()) + 1, unit_capacity=len(trace.units),
    )  # fmt: skip
