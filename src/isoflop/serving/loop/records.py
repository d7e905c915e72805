"""The arrays that the loop reads and writes in place.

Requests live in a ring: request i is row i % ring.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FUTURE, FOLLOWING, WAITING, SWAPPED, PREFILLING, DECODING, DONE, REFUSED = range(8)
"""States of a request. FOLLOWING: arrives when another one ends, at a time not known yet."""


class Requests(NamedTuple):
    """One row per request of the ring; times in seconds, lengths in tokens."""

    arrival: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    key: np.ndarray  # order of admission, smaller first
    computed: np.ndarray  # prompt tokens whose cache arrives with the request
    user: np.ndarray
    follow: np.ndarray  # request that arrives `think` seconds after this one ends, or -1
    think: np.ndarray
    unit_start: np.ndarray  # hashed prefix units of row i: units[unit_start[i]:unit_end[i]]
    unit_end: np.ndarray
    units: np.ndarray
    # results
    scheduled: np.ndarray
    first: np.ndarray
    finish: np.ndarray
    preempted: np.ndarray
    hit: np.ndarray  # prompt tokens served from the prefix cache
    # working state
    state: np.ndarray
    done: np.ndarray  # tokens produced
    ready: np.ndarray  # tokens of the current prompt already computed
    target: np.ndarray  # tokens to compute before decoding (again)
    base: np.ndarray  # context when decoding began,
    begin: np.ndarray  # and the decoding step it began at
    offset: np.ndarray  # the cache grows at steps k where (offset + k) % block_steps == 0
    until: np.ndarray  # decoding step at which it ends; negative when not decoding
    blocks: np.ndarray  # private cache blocks held, when decoding began
    shared: np.ndarray  # leading prefix units it holds references to
    stamp: np.ndarray  # order of admission, -1 when not running
    last: np.ndarray  # time of its last token, set when preempted


class Limits(NamedTuple):
    """Whole-number settings of the engine."""

    sequences: int
    tokens: int  # of one step, over all attention groups
    blocks: int
    block_tokens: int
    block_steps: int  # decoding steps that fill a block: fewer when speculation gains several
    sequence_blocks: int  # blocks a sequence takes whatever its length (windows, states)
    unit_tokens: int  # tokens of a prefix unit, 0 without prefix caching
    unit_blocks: int
    chunked: int  # prompts may be cut to fit a step
    mixed: int  # prompts and decoding share steps
    gang: int  # a batch starts and ends together
    fair: int
    swap: int  # preempted caches go to host memory instead of being dropped
    first_come: int  # keys are arrival times
    ring: int
    host_units: int  # prefix units that host memory keeps when the device drops them


class State(NamedTuple):
    """Everything else that changes; `whole` and `real` are indexed by the names below."""

    whole: np.ndarray
    real: np.ndarray
    waiting_key: np.ndarray
    waiting: np.ndarray
    ending_step: np.ndarray
    ending: np.ndarray
    pending_time: np.ndarray
    pending: np.ndarray
    prefilling: np.ndarray
    running: np.ndarray  # (entries, 2): request and its stamp, in order of admission
    residues: np.ndarray  # decoding sequences by offset % block_steps
    user_tag: np.ndarray
    unit_refs: np.ndarray  # -1: not cached
    unit_previous: np.ndarray
    unit_next: np.ndarray
    host_held: np.ndarray  # 1: the unit is in host memory, and not on the device
    host_previous: np.ndarray
    host_next: np.ndarray
    histogram: np.ndarray  # gaps between tokens, bins as in `times.note`
    gang: np.ndarray
    log: np.ndarray  # (capacity, columns of LOG_COLUMNS)


(
    STEP, N_DECODING, N_WAITING, N_ENDING, N_PENDING, N_PREFILLING, N_RUNNING, NEXT, FED, USED,
    ADMISSIONS, OLDEST, NEWEST, N_IDLE, N_GANG, PREEMPTIONS, ITERATIONS, STEPS, FINISHED, N_LOG,
    N_REFUSED, BLOCKED, N_ADMITTED, UNIT_HITS, UNIT_LOOKUPS, PROMPT_STEPS, HOST_OLDEST,
    HOST_NEWEST, N_HOST, HOST_HITS, WHOLE_SIZE,
) = range(31)  # fmt: skip
"""Indices of State.whole. OLDEST and NEWEST end the list of unreferenced prefix units."""

(
    CLOCK, CONTEXT, VIRTUAL, BUSY, BATCH_S, BLOCK_S, CONTEXT_S, DECODE_TOKENS, PROMPT_TOKENS,
    PROMPT_S, SWAP_S_PER_BLOCK, OWED_S, REAL_SIZE,
) = range(13)  # fmt: skip
"""Indices of State.real. CONTEXT: sum over the decoding batch. OWED_S: transfers that the next
step waits for. BATCH_S, BLOCK_S, CONTEXT_S: integrals over time."""

LOG_COLUMNS = ("start_s", "seconds", "decoding", "waiting", "blocks", "amount", "kind", "context")
"""`amount`: prompt tokens of a step that holds prompts (kind 1), steps of a decoding run (0)."""

BIN_LOW = -11.5129  # natural logarithm of 10 microseconds
BIN_WIDTH = 0.006
