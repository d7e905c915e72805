"""What happens to a request: queue, admission, decoding, preemption, end."""

from __future__ import annotations

import math

import numpy as np

from . import compiled
from .cache import (
    blocks_for,
    cached_units,
    growth,
    host_units,
    leave_host,
    release,
    room,
    settle,
    unlink,
)  # fmt: skip
from .heap import pop, push
from .records import (
    ADMISSIONS,
    BLOCKED,
    CLOCK,
    CONTEXT,
    DECODING,
    DONE,
    FED,
    FINISHED,
    FUTURE,
    HOST_HITS,
    N_ADMITTED,
    N_DECODING,
    N_ENDING,
    N_PENDING,
    N_PREFILLING,
    N_REFUSED,
    N_RUNNING,
    N_WAITING,
    NEXT,
    OWED_S,
    PREEMPTIONS,
    PREFILLING,
    REFUSED,
    STEP,
    SWAP_S_PER_BLOCK,
    SWAPPED,
    UNIT_HITS,
    UNIT_LOOKUPS,
    USED,
    VIRTUAL,
    WAITING,
)  # fmt: skip
from .times import note


@compiled
def enqueue(r, s, limits, i):
    """Put request i into the waiting queue; one whose cache can never fit is refused."""
    if blocks_for(limits, r.prompt[i] + r.output[i] - 1) > limits.blocks:
        r.state[i] = REFUSED
        r.finish[i] = np.nan
        s.whole[N_REFUSED] += 1
        s.whole[FINISHED] += 1
        return
    if limits.fair == 1:
        # Start-time fair queueing: a user's next request starts where the last one's share ended.
        start = max(s.real[VIRTUAL], s.user_tag[r.user[i]])
        s.user_tag[r.user[i]] = start + r.prompt[i] + 2.0 * r.output[i]
        r.key[i] = start
    elif limits.first_come == 1:
        r.key[i] = r.arrival[i]
    r.state[i] = WAITING
    push(s.waiting_key, s.waiting, s.whole[N_WAITING], r.key[i], i)
    s.whole[N_WAITING] += 1
    if limits.first_come == 0:
        s.whole[BLOCKED] = 0  # the new one may come first


@compiled
def ingest(r, s, limits):
    """Move every request that has arrived by now into the queue, in order of arrival."""
    whole, real = s.whole, s.real
    now = real[CLOCK]
    while True:
        while whole[NEXT] < whole[FED] and r.state[whole[NEXT] % limits.ring] != FUTURE:
            whole[NEXT] += 1
        given = np.inf
        if whole[NEXT] < whole[FED]:
            given = r.arrival[whole[NEXT] % limits.ring]
        followed = s.pending_time[0] if whole[N_PENDING] > 0 else np.inf
        if given > now and followed > now:
            return
        if given <= followed:
            i = whole[NEXT] % limits.ring
            whole[NEXT] += 1
        else:
            i = s.pending[0]
            pop(s.pending_time, s.pending, whole[N_PENDING])
            whole[N_PENDING] -= 1
        enqueue(r, s, limits, i)


@compiled
def next_arrival(r, s, limits):
    """Time of the next request that has not arrived; infinity for none."""
    whole = s.whole
    while whole[NEXT] < whole[FED] and r.state[whole[NEXT] % limits.ring] != FUTURE:
        whole[NEXT] += 1
    soonest = np.inf
    if whole[NEXT] < whole[FED]:
        soonest = r.arrival[whole[NEXT] % limits.ring]
    if whole[N_PENDING] > 0 and s.pending_time[0] < soonest:
        soonest = s.pending_time[0]
    return soonest


@compiled
def finish(r, s, limits, i):
    """Request i has its last token."""
    whole, real = s.whole, s.real
    r.finish[i] = real[CLOCK]
    r.state[i] = DONE
    r.until[i] = -1
    r.stamp[i] = -1
    whole[FINISHED] += 1
    whole[N_RUNNING] -= 1
    whole[BLOCKED] = 0
    release(r, s, limits, i)
    j = r.follow[i]
    if j >= 0:
        r.arrival[j] = real[CLOCK] + r.think[i]
        push(s.pending_time, s.pending, whole[N_PENDING], r.arrival[j], j)
        whole[N_PENDING] += 1


@compiled
def purge(r, s):
    """Drop the entries of preempted requests from the heap of ends."""
    n = s.whole[N_ENDING]
    kept = 0
    for j in range(n):
        i, due = s.ending[j], s.ending_step[j]
        if r.until[i] == due and r.state[i] == DECODING:
            push(s.ending_step, s.ending, kept, due, i)
            kept += 1
    s.whole[N_ENDING] = kept


@compiled
def start_decoding(r, s, t, limits, i):
    """Request i, all of whose context is cached, decodes from the current step on."""
    whole, real = s.whole, s.real
    k = whole[STEP]
    context = r.prompt[i] + r.done[i] - 1  # the newest token is not cached yet
    gain = t.numbers[2]
    r.base[i] = context
    r.begin[i] = k
    # In units of decoding steps; exact for one token per step.
    filled = context if gain == 1.0 else int(context / gain)
    r.offset[i] = filled - k
    r.until[i] = k + math.ceil((r.output[i] - r.done[i]) / gain)
    r.state[i] = DECODING
    whole[N_DECODING] += 1
    real[CONTEXT] += context
    s.residues[r.offset[i] % limits.block_steps] += 1
    if whole[N_ENDING] == len(s.ending):
        purge(r, s)
    push(s.ending_step, s.ending, whole[N_ENDING], r.until[i], i)
    whole[N_ENDING] += 1


@compiled
def stop_decoding(r, s, t, limits, i):
    """Take request i out of the decoding batch at the current step."""
    settle(r, s, limits, i)
    s.whole[N_DECODING] -= 1
    s.real[CONTEXT] -= r.base[i] + t.numbers[2] * (s.whole[STEP] - r.begin[i])
    if s.whole[N_DECODING] == 0:
        s.real[CONTEXT] = 0.0
    s.residues[r.offset[i] % limits.block_steps] -= 1


@compiled
def preempt(r, s, t, limits, i):
    """Push running request i back to the queue, dropping or swapping its cache."""
    swapped = False
    if r.state[i] == DECODING:
        left = math.ceil((r.until[i] - s.whole[STEP]) * t.numbers[2])
        r.done[i] = max(1, r.output[i] - left)
        stop_decoding(r, s, t, limits, i)
        r.until[i] = -1
        r.last[i] = s.real[CLOCK]
        swapped = limits.swap == 1
        if swapped:
            s.real[OWED_S] += s.real[SWAP_S_PER_BLOCK] * r.blocks[i]
    else:  # still computing its prompt
        n = s.whole[N_PREFILLING]
        kept = 0
        for j in range(n):
            if s.prefilling[j] != i:
                s.prefilling[kept] = s.prefilling[j]
                kept += 1
        s.whole[N_PREFILLING] = kept
    release(r, s, limits, i)
    r.state[i] = SWAPPED if swapped else WAITING
    r.ready[i] = 0
    r.preempted[i] += 1
    r.stamp[i] = -1
    s.whole[PREEMPTIONS] += 1
    s.whole[N_RUNNING] -= 1
    s.whole[BLOCKED] = 0
    push(s.waiting_key, s.waiting, s.whole[N_WAITING], r.key[i], i)
    s.whole[N_WAITING] += 1


@compiled
def youngest(r, s, limits):
    """The running request to preempt: last admitted, or last in the queue's order; -1 for none."""
    n = s.whole[N_ADMITTED]
    worst = -1
    while n > 0:
        i = s.running[n - 1, 0]
        if r.stamp[i] == s.running[n - 1, 1]:
            if limits.first_come == 1:
                s.whole[N_ADMITTED] = n
                return i
            if worst < 0 or r.key[i] > r.key[worst]:
                worst = i
        n -= 1
    return worst


@compiled
def remember(r, s, i):
    """Append to the admission list, dropping requests that have left it when it is full."""
    if s.whole[N_ADMITTED] == len(s.running):
        n = 0
        for j in range(len(s.running)):
            if r.stamp[s.running[j, 0]] == s.running[j, 1]:
                s.running[n, 0] = s.running[j, 0]
                s.running[n, 1] = s.running[j, 1]
                n += 1
        s.whole[N_ADMITTED] = n
    s.running[s.whole[N_ADMITTED], 0] = i
    s.running[s.whole[N_ADMITTED], 1] = r.stamp[i]
    s.whole[N_ADMITTED] += 1


@compiled
def reserve(r, s, limits, i, held, units, loaded, booked):
    """Book the cache of `held` tokens; whether there was room.

    Its first `units` units are shared, the `loaded` ones after them come from host memory.
    `booked` blocks are spoken for by the decoding sequences of the same step.
    """
    whole, real = s.whole, s.real
    # Referencing idle units takes them from the evictable ones.
    fresh = 0
    for n in range(units):
        if s.unit_refs[r.units[r.unit_start[i] + n]] == 0:
            fresh += 1
    if limits.gang == 1:
        held = r.prompt[i] + r.output[i] - 1
    private = blocks_for(limits, held) - (units + loaded) * limits.unit_blocks
    new = private + loaded * limits.unit_blocks
    if new > limits.blocks - whole[USED] - booked - fresh * limits.unit_blocks:
        return False
    for n in range(units):
        unit = r.units[r.unit_start[i] + n]
        if s.unit_refs[unit] == 0:
            unlink(s, unit)
            whole[USED] += limits.unit_blocks
        s.unit_refs[unit] += 1
    for n in range(units, units + loaded):
        leave_host(s, r.units[r.unit_start[i] + n])
    room(s, limits, new)
    for n in range(units, units + loaded):
        s.unit_refs[r.units[r.unit_start[i] + n]] = 1
    whole[USED] += new
    real[OWED_S] += real[SWAP_S_PER_BLOCK] * loaded * limits.unit_blocks
    r.blocks[i] = private
    r.shared[i] = units + loaded
    return True


@compiled
def admit(r, s, t, limits, tokens_left):
    """Start waiting requests while slots, cache and the step's tokens allow."""
    whole, real = s.whole, s.real
    while whole[N_WAITING] > 0 and whole[N_RUNNING] < limits.sequences and tokens_left > 0:
        i = s.waiting[0]
        swapped = r.state[i] == SWAPPED
        again = r.done[i] > 0  # preempted after its first token
        held = r.prompt[i] + r.done[i] - (1 if again else 0)
        units = cached_units(r, s, limits, i)
        loaded = 0 if swapped or r.computed[i] > 0 else host_units(r, s, limits, i, units)
        hit = (units + loaded) * limits.unit_tokens
        ready = held if swapped else (hit if again else max(hit, r.computed[i]))
        if limits.chunked == 0 and held - ready > tokens_left and whole[N_PREFILLING] > 0:
            return  # whole prompts only: this one starts a step of its own
        booked = growth(s, limits, 1) if limits.mixed == 1 else 0
        if not reserve(r, s, limits, i, held, units, loaded, booked):
            whole[BLOCKED] = 1
            return
        pop(s.waiting_key, s.waiting, whole[N_WAITING])
        whole[N_WAITING] -= 1
        if r.preempted[i] == 0:
            whole[UNIT_HITS] += units + loaded
            whole[HOST_HITS] += loaded
            whole[UNIT_LOOKUPS] += r.unit_end[i] - r.unit_start[i]
            r.hit[i] = hit
            r.scheduled[i] = real[CLOCK]
        whole[N_RUNNING] += 1
        whole[ADMISSIONS] += 1
        r.stamp[i] = whole[ADMISSIONS]
        real[VIRTUAL] = max(real[VIRTUAL], r.key[i])
        remember(r, s, i)
        if ready < held:
            r.ready[i] = ready
            r.target[i] = held
            r.state[i] = PREFILLING
            s.prefilling[whole[N_PREFILLING]] = i
            whole[N_PREFILLING] += 1
            tokens_left -= held - ready
            continue
        if swapped:
            real[OWED_S] += real[SWAP_S_PER_BLOCK] * r.blocks[i]
            note(s, real[CLOCK] - r.last[i], 1.0)
        else:  # its cache and first token came along from another instance
            r.done[i] = 1
            r.first[i] = real[CLOCK]
        if r.done[i] >= r.output[i]:
            finish(r, s, limits, i)
        else:
            start_decoding(r, s, t, limits, i)
