"""`simulate`: a trace through one server, or several behind a router."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import numpy as np
from attrs import evolve

from ..cost.features import Array
from ..errors import InvalidInput
from .loop.records import FED, NEXT
from .report import BATCHES, Collected, ServingReport, make_report
from .router import find_router
from .running import Running
from .server import Server
from .traffic import Trace

Progress = Callable[[float], None]
"""Called with the share of requests that is done."""

SLICES = 200
"""Pieces of a long run between which progress is shown."""


def simulate(
    server: Server, trace: Trace, *, replicas: int = 1, router: str = "round-robin",
    drop_long: bool = False, events: int = 0, progress: Progress | None = None,
    longest: int = 1 << 40, sustained: bool = False, brief: bool = False,
) -> ServingReport:  # fmt: skip
    """Simulate every request of `trace`.

    Parameters
    ----------
    server : Server
        What each replica is.
    replicas : int
        Equal servers behind the router; each `server.share` of them sit on the same devices.
    router : str
        Name of a router.
    drop_long : bool
        Leave out requests that are longer than the model's context or the cache, and count them.
    events : int
        Records of the event log to keep, per replica.
    longest : int
        Most decoding steps taken at once; 1 is the plain step-by-step loop.
    sustained : bool
        Whether the load lasts, so that clocks settle where its mean power meets the board's
        limit: the trace then runs a second time at those clocks. Engines' factors were fitted on
        mixed loads that hold some of this already.
    brief : bool
        Leave power, energy, clocks and bounds out of the report: a search of many runs does
        without.

    Raises
    ------
    InvalidInput
        If a request can never run and `drop_long` is not set.
    """
    began = time.perf_counter()
    chosen = find_router(router)
    trace, dropped = admissible(server, trace, drop_long)
    if replicas < 1:
        raise InvalidInput(f"{replicas} replicas cannot serve; at least one is needed.")
    if replicas == 1:
        instance = _instance(server, trace, len(trace), events)
        instance.feed(trace)
        gaps = _run(instance, trace, progress, longest)
        instances, parts = [instance], [np.arange(len(trace))]
    else:
        gaps = []
        instances, parts = chosen.run(
            [_instance(server, trace, len(trace), events) for _ in range(replicas)], trace
        )
    collected = Collected.of(instances, parts, trace)
    report = make_report(
        server, trace, collected, instances, replicas=replicas, dropped=dropped,
        wall_s=time.perf_counter() - began, brief=brief and not sustained, gap_batches=gaps,
    )  # fmt: skip
    if not sustained:
        return report
    clock = report.summary["allowed_clock"]
    if clock >= 1.0:
        return report
    slower = evolve(server, step=server.step.at(clock))
    return simulate(slower, trace, replicas=replicas, router=router, drop_long=drop_long,
                    events=events, progress=progress, longest=longest)  # fmt: skip


def admissible(
    server: Server, trace: Trace, drop_long: bool, output: Array | None = None
) -> tuple[Trace, int]:
    """The requests that can run at all, and how many were left out.

    `output` are the tokens that the server makes of each, where not all of them.
    """
    output = trace.output_tokens if output is None else output
    if not drop_long:
        server.check(trace.prompt_tokens, output)
        return trace, 0
    held = (server.blocks - server.sequence_blocks) * server.block_tokens
    limit = min(server.longest, held + 1) if server.token_bytes else server.longest
    fits = trace.prompt_tokens + output <= limit
    if np.all(fits):
        return trace, 0
    if not np.any(fits):
        server.check(trace.prompt_tokens, output)
    return trace.take(np.nonzero(fits)[0]), int(np.sum(~fits))


def _instance(server: Server, trace: Trace, capacity: int, events: int) -> Running:
    units = int(trace.units.max()) + 1 if len(trace.units) else 0
    return Running(
        server, capacity=capacity, unit_tokens=trace.unit_tokens, units=units,
        users=int(trace.user.max()) + 1, events=events, unit_capacity=len(trace.units),
    )  # fmt: skip


def _run(
    instance: Running, trace: Trace, progress: Progress | None, longest: int
) -> list[Array]:  # fmt: skip
    """Run everything; histograms of gaps between tokens by batch of consecutive arrivals.

    No batches where there are too few arrivals, or where they are not known beforehand.
    """
    known = trace.arrival_s[np.isfinite(trace.arrival_s)]
    every = len(known) // BATCHES if len(known) >= 10 * BATCHES else 0
    cuts = set(range(every, every * BATCHES, every)) if every else set()
    shown = set()
    if progress is not None and len(known) > SLICES:
        shown = set(range(0, len(known), max(1, len(known) // SLICES)))
    seen = [np.zeros_like(instance.state.histogram)]
    for i in sorted(cuts | shown):
        instance.advance(float(known[i]), longest)
        if i in cuts:
            seen.append(instance.state.histogram.copy())
        if progress is not None:
            progress(instance.finished / len(trace))
    instance.advance(np.inf, longest)
    if progress is not None:
        progress(1.0)
    return list(np.diff([*seen, instance.state.histogram], axis=0)) if cuts else []


def simulate_stream(
    server: Server, blocks: Iterable[Trace], *, ring: int = 1 << 19,
    progress: Callable[[int], None] | None = None,
) -> ServingReport:  # fmt: skip
    """Simulate a stream of traces in bounded memory.

    The blocks follow each other in time. Only `ring` requests are held at once; what is kept of
    the others are histograms with bins 0.6% wide, so percentiles are that exact.

    Raises
    ------
    InvalidInput
        If the server falls so far behind that more than `ring` requests wait.
    """
    began = time.perf_counter()
    instance = Running(server, capacity=ring, expected=ring)
    collected = Collected.empty()
    order: list[tuple[slice, Trace]] = []
    total = 0
    name = ""
    for block in blocks:
        name = name or block.name
        server.check(block.prompt_tokens, block.output_tokens)
        begin = 0
        while begin < len(block):
            place = instance.whole(FED) % ring
            count = min(len(block) - begin, ring // 4, ring - place)
            piece = _cut(block, begin, count)
            order, collected = _make_place(instance, order, collected, place, count)
            order.append((instance.feed(piece), piece))
            instance.advance(float(piece.arrival_s[-1]))
            begin += count
            total += count
            if progress is not None:
                progress(total)
    instance.advance()
    for rows, piece in order:
        collected = collected.add(instance, rows, piece)
    return make_report(
        server, Trace(name=name, arrival_s=np.zeros(1), prompt_tokens=np.ones(1, int),
                      output_tokens=np.ones(1, int)),
        collected, [instance], replicas=1, dropped=0, wall_s=time.perf_counter() - began,
    )  # fmt: skip


def _cut(block: Trace, begin: int, count: int) -> Trace:
    rows = slice(begin, begin + count)
    return evolve(
        block, arrival_s=block.arrival_s[rows], prompt_tokens=block.prompt_tokens[rows],
        output_tokens=block.output_tokens[rows], user=block.user[rows],
        priority=block.priority[rows],
    )  # fmt: skip


def _make_place(
    instance: Running, order: list[tuple[slice, Trace]], collected: Collected, place: int,
    count: int,
) -> tuple[list[tuple[slice, Trace]], Collected]:  # fmt: skip
    """Collect the oldest pieces whose rows are wanted again, or done."""
    kept = []
    for rows, piece in order:
        wanted = rows.start < place + count and place < rows.stop
        if not wanted:
            kept.append((rows, piece))
            continue
        if not np.all(instance.requests.state[rows] >= 6):
            raise InvalidInput(
                f"More than {instance.limits.ring:,} requests wait at once: the traffic is above "
                f"what the server can carry (request {instance.whole(NEXT):,} was the last to "
                "arrive). Lower the rate or add replicas."
            )
        collected = collected.add(instance, rows, piece)
    return kept, collected
