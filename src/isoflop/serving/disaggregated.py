"""Prefill and decode on instances of their own, the cache sent from one to the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import evolve

from ..cost.features import Batch
from ..cost.power import settled
from ..errors import InvalidInput
from .loop.records import BATCH_S, BUSY
from .outages import Outage, check_outages, outage_summary
from .pool import Pool
from .report import Collected, ServingReport, make_report
from .server import Server
from .simulate import admissible
from .split import SplitRun
from .traffic import Trace
from .transfer import transfer_s


def simulate_split(
    server: Server, trace: Trace, *, prefills: int, decodes: int, prefill: Server | None = None,
    routers: tuple[str, str] = ("round-robin", "round-robin"), outages: Sequence[Outage] = (),
    drop_long: bool = False, events: int = 0, brief: bool = False,
) -> ServingReport:  # fmt: skip
    """`prefills` instances compute prompts and first tokens, `decodes` the rest.

    A request goes to a prefill instance as it arrives and to a decode instance as its cache does.
    A cache that the decode instance cannot hold yet waits in the instance's queue, in host memory
    as in Mooncake, so that decoding never slows prompts: pages of the prefill instance are free
    once the prompt is computed. Where arrivals are given and nothing fails, one pool is simulated
    after the other; otherwise both go on together. Prompts one after another spend the board's
    power, so the prefill pool runs at the clock that its share of busy time allows.

    What a failed decode instance had goes back to the prefill pool, which computes the prompt and
    the tokens made so far again; what a failed prefill instance had, caches that it was sending
    included, is computed again by another. An instance that is drained ends what it has.

    Parameters
    ----------
    server : Server
        What each decode instance is, and each prefill instance without `prefill`.
    prefill : Server or None
        What each prefill instance is: another device or plan for the same model and cache format.
    routers : (str, str)
        Names of the routers over prefill and over decode instances. The latter keep no prefixes.
    outages : sequence of Outage
        Prefill instances are counted first. Of one instance they must not overlap. Requests and
        caches that find their whole pool out wait for the first to return.
    events : int
        Records of the event log to keep, per instance.
    brief : bool
        Leave power, energy, clocks and bounds out of the report.

    Returns
    -------
    ServingReport
        Its summary has besides: `split`, the number of instances; `pools`, a record of each;
        `transfer_s`, the mean time that a cache is on its way; with outages what
        `simulate_fleet` says of them, where `lost_tokens` are those whose cache was lost and whose
        tokens, once made, were not.

    Raises
    ------
    InvalidInput
        If a request can run nowhere, an outage names no instance, or the pools hold different
        models or cache formats.

    References
    ----------
    Zhong et al. 2024, DistServe, arXiv 2401.09670; Patel et al. 2024, Splitwise, arXiv 2311.18677;
    Qin et al. 2024, Mooncake, arXiv 2407.00079.
    """
    began = time.perf_counter()
    if prefills < 1 or decodes < 1:
        raise InvalidInput(
            f"{prefills} prefill and {decodes} decode instances cannot serve; one of each is "
            "needed at least."
        )
    prompting = prefill or server
    check_outages(outages, prefills + decodes)
    _check_alike(prompting, server)
    trace, dropped = _admissible(prompting, server, trace, outages, drop_long)

    def run(prompting: Server) -> SplitRun:
        done = SplitRun(
            prompting=prompting, decoding=server, trace=trace, prefills=prefills, decodes=decodes,
            routers=routers, outages=outages, events=events,
        )  # fmt: skip
        done.run()
        return done

    if trace.follows is None:
        prompting = _at_settled_clock(
            prompting, trace, _busy_of_prompts(prompting, trace, prefills)
        )
        done = run(prompting)
    else:
        done = run(prompting)
        # The clock follows from the busy time, which is known only now.
        slower = _at_settled_clock(prompting, trace, done.busy_of_prompts())
        if slower is not prompting:
            prompting = slower
            done = run(prompting)
    collected = done.collected()
    report = make_report(
        server, trace, collected, [x.running for x in done.lives], replicas=prefills + decodes,
        dropped=dropped, wall_s=time.perf_counter() - began,
        servers=[prompting] * prefills + [server] * decodes, brief=brief,
    )  # fmt: skip
    more: dict[str, Any] = {
        "split": {"prefill": prefills, "decode": decodes},
        "pools": [_pool_record(name, pool, collected) for name, pool in
                  (("prefill", done.prefill), ("decode", done.decode))],
        "transfer_s": _mean_transfer_s(prompting, server, trace),
    }  # fmt: skip
    if outages:
        more |= outage_summary(
            outages, prefills + decodes, collected.first_s, collected.last_s,
            rerouted=done.rerouted, lost_tokens=done.lost_tokens,
        )  # fmt: skip
    return evolve(report, summary={**report.summary, **more})


def _check_alike(prompting: Server, decoding: Server) -> None:
    """Raise where a cache of the one means nothing to the other."""
    one, other = prompting.step, decoding.step
    if one.model.id != other.model.id:
        raise InvalidInput(
            f"Prefill instances hold {one.model.name} and decode instances {other.model.name}; a "
            "cache can only be read by the model that wrote it. Give both pools one model."
        )
    formats = [s.plan.formats.kv for s in (one, other)]
    if formats[0] != formats[1]:
        raise InvalidInput(
            f"Prefill instances keep the cache in {formats[0]} and decode instances in "
            f"{formats[1]}; it is sent as it is. Give both pools one cache format (--kv)."
        )


def _admissible(
    prompting: Server, decoding: Server, trace: Trace, outages: Sequence[Outage], drop_long: bool
) -> tuple[Trace, int]:
    """The requests that both pools can hold; a prefill instance holds prompts and a token."""
    trace, dropped = admissible(decoding, trace, drop_long)
    if prompting is decoding:
        return trace, dropped
    # What a decode instance loses comes back with the tokens made so far.
    whole = any(o.kind == "fail" for o in outages)
    output = None if whole else np.ones(len(trace), np.int64)
    trace, more = admissible(prompting, trace, drop_long, output)
    return trace, dropped + more


def _pool_record(name: str, pool: Pool, collected: Collected) -> dict[str, Any]:
    """What a report says of one pool; busy is the share of its instances' time in steps."""
    step, span = pool.servers[0].step, max(collected.last_s - collected.first_s, 1e-12)
    busy = sum(x.running.real(BUSY) for x in pool.lives)
    batch = sum(x.running.real(BATCH_S) for x in pool.lives)
    return {
        "pool": name, "instances": len(pool.servers), "device": step.device.id,
        "plan": step.plan.describe(), "router": pool.router.title,
        "busy": busy / (span * len(pool.servers)), "mean_batch": batch / max(busy, 1e-12),
        "clock": step.clock or 1.0, "cache_blocks": pool.servers[0].blocks,
    }  # fmt: skip


def _mean_transfer_s(prompting: Server, decoding: Server, trace: Trace) -> float:
    """Over the requests whose cache is sent."""
    prompt = trace.prompt_tokens[trace.output_tokens > 1]
    return float(transfer_s(prompting.step, prompt, decoding.step).mean()) if len(prompt) else 0.0


def _busy_of_prompts(server: Server, trace: Trace, prefills: int) -> float:
    """Share of their time that the trace's prompts keep `prefills` instances busy."""
    step, prompt = server.step, float(np.mean(trace.prompt_tokens))
    each = float(step.prefill_s(np.array(float(step.plan.data)), np.array(prompt)))
    span = float(trace.arrival_s[-1] - trace.arrival_s[0])
    work = len(trace) * each / (step.plan.data * prefills)
    return min(1.0, work / max(span, 1e-12))


def _at_settled_clock(server: Server, trace: Trace, busy: float) -> Server:
    """What a prefill instance is while the trace's prompts keep it busy."""
    prompt = float(np.mean(trace.prompt_tokens))
    chunk = Batch(prefill_sequences=1.0, prefill_tokens=min(prompt, float(server.max_tokens)))
    held = settled(server.step, chunk, busy=busy)
    return server if held.clock is None else evolve(server, step=held)
