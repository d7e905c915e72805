"""Steps, and the loop over them."""

from __future__ import annotations

import math

import numpy as np

from . import borrowed, compiled
from .cache import affordable, grow, publish
from .heap import pop
from .records import (
    BLOCKED,
    CLOCK,
    CONTEXT,
    DECODE_TOKENS,
    DECODING,
    ITERATIONS,
    N_DECODING,
    N_ENDING,
    N_GANG,
    N_PREFILLING,
    N_RUNNING,
    N_WAITING,
    OWED_S,
    PROMPT_S,
    PROMPT_STEPS,
    PROMPT_TOKENS,
    STEP,
)  # fmt: skip
from .requests import (
    admit,
    finish,
    ingest,
    next_arrival,
    preempt,
    start_decoding,
    stop_decoding,
    youngest,
)  # fmt: skip
from .times import cell, event, mixed_s, note, prompt_s, spend


@compiled
def first_end(r, s):
    """Decoding step of the next end, after dropping stale entries; a far one for none."""
    while s.whole[N_ENDING] > 0:
        i = s.ending[0]
        if r.until[i] == s.ending_step[0] and r.state[i] == DECODING:
            return s.ending_step[0]
        pop(s.ending_step, s.ending, s.whole[N_ENDING])
        s.whole[N_ENDING] -= 1
    return s.whole[STEP] + 1


@compiled
def retire(r, s, t, limits, i):
    """Request i has ended: it leaves the batch, or waits for the rest of its gang."""
    r.done[i] = r.output[i]
    if limits.gang == 1:
        s.gang[s.whole[N_GANG]] = i
        s.whole[N_GANG] += 1
        r.until[i] = -2
    else:
        stop_decoding(r, s, t, limits, i)
        finish(r, s, limits, i)


@compiled
def end_due(r, s, t, limits):
    """Retire every request whose last decoding step has just run."""
    while s.whole[N_ENDING] > 0 and first_end(r, s) <= s.whole[STEP] and s.whole[N_ENDING] > 0:
        i = s.ending[0]
        pop(s.ending_step, s.ending, s.whole[N_ENDING])
        s.whole[N_ENDING] -= 1
        retire(r, s, t, limits, i)
    if limits.gang == 1 and s.whole[N_GANG] == s.whole[N_RUNNING] and s.whole[N_GANG] > 0:
        for j in range(s.whole[N_GANG]):
            i = s.gang[j]
            stop_decoding(r, s, t, limits, i)
            finish(r, s, limits, i)
        s.whole[N_GANG] = 0


@compiled
def prompt_step(r, s, t, limits):
    """One step that computes chunks of prompts, with the decoding batch if steps are mixed."""
    decoding = s.whole[N_DECODING] if limits.mixed == 1 else 0
    context = s.real[CONTEXT] / decoding if decoding > 0 else 0.0
    budget = limits.tokens - int(decoding * t.numbers[3])
    tokens, largest, prompts, completing = 0, 0, 0, 0
    attending, longest = 0.0, 0.0
    n = s.whole[N_PREFILLING]
    for j in range(n):
        i = s.prefilling[j]
        take = r.target[i] - r.ready[i]
        if limits.chunked == 1:
            take = min(take, budget)
        if take <= 0:
            break
        each = prompt_s(t, float(take), float(r.ready[i]))
        attending += each
        longest = max(longest, each)
        largest = max(largest, take)
        tokens += take
        budget -= take
        prompts += 1
        r.ready[i] += take
        if r.ready[i] == r.target[i]:
            completing += 1
    sampled = decoding + completing
    seconds = s.real[OWED_S] + mixed_s(
        t, decoding, context, tokens, largest, attending, longest, prompts, sampled
    )
    s.real[OWED_S] = 0.0
    event(s, 1.0, seconds, float(tokens))
    if decoding > 0:
        gain = t.numbers[2]
        grow(s, limits, 1)
        note(s, seconds / gain, decoding * gain)
        s.real[DECODE_TOKENS] += decoding * gain
        s.real[CONTEXT] += decoding * gain
        s.whole[STEP] += 1
    spend(s, seconds, 1, context)
    s.real[PROMPT_S] += seconds
    s.real[PROMPT_TOKENS] += tokens
    s.whole[PROMPT_STEPS] += 1
    kept = 0
    for j in range(n):
        i = s.prefilling[j]
        if r.ready[i] < r.target[i]:
            s.prefilling[kept] = i
            kept += 1
        else:
            sample(r, s, t, limits, i)
    s.whole[N_PREFILLING] = kept


@compiled
def sample(r, s, t, limits, i):
    """Request i has its whole prompt computed: it gains a token and decodes, or ends."""
    publish(r, s, limits, i)
    if r.done[i] == 0:
        r.first[i] = s.real[CLOCK]
    else:
        note(s, s.real[CLOCK] - r.last[i], 1.0)
    r.done[i] += 1
    if r.done[i] < r.output[i] or limits.gang == 1:
        start_decoding(r, s, t, limits, i)  # in a gang even ended ones stay in the batch
    else:
        finish(r, s, limits, i)


@compiled
def steps_until(first, rise, gap, most):
    """Fewest steps, at most `most`, whose series first + rise j sums to at least `gap`."""
    if first >= gap:
        return 1
    if most * first + rise * most * (most - 1) * 0.5 < gap:
        return most
    if rise > 1e-18:
        b = first - 0.5 * rise
        m = int((math.sqrt(b * b + 2.0 * rise * gap) - b) / rise)
    else:
        m = int(gap / first)
    m = max(1, m - 1)
    while m < most and m * first + rise * m * (m - 1) * 0.5 < gap:
        m += 1
    return m


@compiled
def decode_run(r, s, t, limits, stop, longest):
    """Pure decoding steps, at most `longest`, until something can change.

    `stop` is a time that must be looked at: the run ends with the first step past it.
    """
    n = s.whole[N_DECODING]
    context = s.real[CONTEXT] / n
    gain = t.numbers[2]
    j = cell(t.context, context)
    low = t.attention[n, j]
    slope = (t.attention[n, j + 1] - low) / (t.context[j + 1] - t.context[j])
    owed = s.real[OWED_S]
    first = t.decode[n] + low + slope * (context - t.context[j])
    rise = slope * gain
    steps = min(longest, first_end(r, s) - s.whole[STEP])
    # Within one cell of the context the step time is linear in the step.
    if j + 2 < len(t.context):
        steps = min(steps, int((t.context[j + 1] - context) / gain) + 1)
    steps = max(1, steps)
    if stop < np.inf and steps > 1:
        steps = steps_until(first, rise, stop - s.real[CLOCK] - owed, steps)
    if limits.gang == 0:
        steps = max(1, affordable(s, limits, steps))
    s.real[OWED_S] = 0.0
    seconds = steps * first + rise * steps * (steps - 1) * 0.5
    event(s, 0.0, owed + seconds, float(steps))
    grow(s, limits, steps)
    note(s, seconds / (steps * gain), n * steps * gain)
    spend(s, owed + seconds, steps, context + 0.5 * gain * (steps - 1))
    s.real[DECODE_TOKENS] += n * gain * steps
    s.real[CONTEXT] += n * gain * steps
    s.whole[STEP] += steps


@compiled
def make_room(r, s, t, limits):
    """Preempt until the next decoding step's cache fits; whether anyone had to go."""
    preempted = False
    while s.whole[N_DECODING] > 0 and s.whole[N_RUNNING] > 1 and affordable(s, limits, 1) < 1:
        i = youngest(r, s, limits)
        if i < 0:
            break
        preempt(r, s, t, limits, i)
        preempted = True
    return preempted


@compiled
def advance(r, s, t, limits, horizon, longest):
    """Run until the clock reaches `horizon`, or nothing is left to do before it.

    `longest` bounds the decoding steps taken at once: 1 makes this the plain loop.
    """
    r, s, t = borrowed(r), borrowed(s), borrowed(t)
    while True:
        ingest(r, s, limits)
        if s.whole[N_RUNNING] == 0 and s.whole[N_WAITING] == 0:
            soonest = next_arrival(r, s, limits)
            if soonest > horizon or soonest == np.inf:
                return
            s.real[CLOCK] = max(s.real[CLOCK], soonest)
            continue
        if s.real[CLOCK] >= horizon:
            return
        s.whole[ITERATIONS] += 1
        refused = limits.gang == 0 and make_room(r, s, t, limits)
        budget = limits.tokens
        if limits.mixed == 1:
            budget -= int(s.whole[N_DECODING] * t.numbers[3])
        for j in range(s.whole[N_PREFILLING]):
            i = s.prefilling[j]
            budget -= r.target[i] - r.ready[i]
        open_gang = limits.gang == 0 or s.whole[N_RUNNING] == s.whole[N_PREFILLING]
        if open_gang and not refused and s.whole[BLOCKED] == 0:
            admit(r, s, t, limits, budget)
        if s.whole[N_PREFILLING] > 0:
            prompt_step(r, s, t, limits)
        elif s.whole[N_DECODING] > 0:
            stop = horizon
            slots = s.whole[N_RUNNING] < limits.sequences and limits.gang == 0
            # An arrival matters only if it could be admitted ahead of what waits.
            if slots and (s.whole[N_WAITING] == 0 or limits.first_come == 0):
                stop = min(stop, next_arrival(r, s, limits))
            # After a preemption the queue is looked at again one step later.
            decode_run(r, s, t, limits, stop, 1 if refused else longest)
        elif s.whole[N_RUNNING] == 0 and s.whole[N_WAITING] > 0 and s.whole[BLOCKED] == 1:
            s.whole[BLOCKED] = 0  # nothing runs, so everything can be evicted
        end_due(r, s, t, limits)
