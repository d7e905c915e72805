"""Step times from the tables, and where the clock and the statistics go."""

from __future__ import annotations

import math

from . import below, compiled
from .records import (
    BATCH_S,
    BIN_LOW,
    BIN_WIDTH,
    BLOCK_S,
    BUSY,
    CLOCK,
    CONTEXT,
    CONTEXT_S,
    N_DECODING,
    N_LOG,
    N_WAITING,
    STEPS,
    USED,
)  # fmt: skip


@compiled
def attention_s(t, sequences, context):
    """Decode attention of one step, and its slope per token of context."""
    j = below(t.context, context)
    low = t.attention[sequences, j]
    slope = (t.attention[sequences, j + 1] - low) / (t.context[j + 1] - t.context[j])
    return low + slope * (context - t.context[j]), slope


@compiled
def prompt_s(t, tokens, prior):
    """Attention of one chunk of `tokens` after `prior` cached ones."""
    i = below(t.chunk, tokens)
    j = below(t.prior, prior)
    u = (tokens - t.chunk[i]) / (t.chunk[i + 1] - t.chunk[i])
    v = (prior - t.prior[j]) / (t.prior[j + 1] - t.prior[j])
    a = t.prompt[i, j] * (1.0 - v) + t.prompt[i, j + 1] * v
    b = t.prompt[i + 1, j] * (1.0 - v) + t.prompt[i + 1, j + 1] * v
    return a * (1.0 - u) + b * u


@compiled
def mixed_s(t, decoding, context, tokens, largest, prompts_s, largest_s, prompts, sampled):
    """Seconds of a step with `prompts` chunks of `tokens` tokens in all and `decoding` sequences.

    With several attention groups the fullest group decides: the prompts spread over the groups,
    but no prompt is split.
    """
    groups = t.numbers[1]
    local = max(largest, tokens / groups)
    total = math.ceil(local + decoding * t.numbers[3] / groups)
    top = len(t.mixed) - 1
    # Past the table, where steps are compute-bound, time grows with tokens.
    base = t.mixed[total] if total <= top else t.mixed[top] * total / top
    share = max(largest_s, (prompts_s - (prompts - 1) * t.numbers[0]) / groups)
    seconds = base + share + t.head[min(sampled, len(t.head) - 1)]
    if decoding > 0:
        extra, _ = attention_s(t, decoding, context)
        seconds += extra + t.aside[decoding]
    return seconds


@compiled
def note(s, gap, count):
    """Add `count` gaps between tokens of `gap` seconds to the histogram."""
    slot = int((math.log(gap) - BIN_LOW) / BIN_WIDTH) if gap > 1e-5 else 0
    last = len(s.histogram) - 1
    s.histogram[slot if slot < last else last] += count


@compiled
def event(s, kind, seconds, tokens):
    """Append one record to the log, if there is room."""
    n = s.whole[N_LOG]
    if n < len(s.log):
        s.log[n, 0] = s.real[CLOCK]
        s.log[n, 1] = seconds
        s.log[n, 2] = s.whole[N_DECODING]
        s.log[n, 3] = s.whole[N_WAITING]
        s.log[n, 4] = s.whole[USED]
        s.log[n, 5] = tokens
        s.log[n, 6] = kind
        s.log[n, 7] = s.real[CONTEXT] / max(1, s.whole[N_DECODING])
        s.whole[N_LOG] = n + 1


@compiled
def spend(s, seconds, steps, context):
    """Advance the clock and the time-weighted sums."""
    whole, real = s.whole, s.real
    n = whole[N_DECODING]
    real[CLOCK] += seconds
    real[BUSY] += seconds
    real[BATCH_S] += seconds * n
    real[CONTEXT_S] += seconds * context
    real[BLOCK_S] += seconds * whole[USED]
    whole[STEPS] += steps
