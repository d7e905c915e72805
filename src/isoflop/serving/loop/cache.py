"""The paged cache: prefix units shared between requests, and growth while decoding."""

from __future__ import annotations

from . import compiled
from .records import (
    BLOCKED,
    HOST_NEWEST,
    HOST_OLDEST,
    N_DECODING,
    N_HOST,
    N_IDLE,
    NEWEST,
    OLDEST,
    STEP,
    USED,
)  # fmt: skip


@compiled
def unlink(s, unit):
    """Take a unit out of the list of unreferenced ones."""
    before = s.unit_previous[unit]
    after = s.unit_next[unit]
    if before >= 0:
        s.unit_next[before] = after
    else:
        s.whole[OLDEST] = after
    if after >= 0:
        s.unit_previous[after] = before
    else:
        s.whole[NEWEST] = before
    s.whole[N_IDLE] -= 1


@compiled
def idle(s, unit):
    """Append a unit to the list of unreferenced ones, most recent last."""
    tail = s.whole[NEWEST]
    s.unit_previous[unit] = tail
    s.unit_next[unit] = -1
    if tail >= 0:
        s.unit_next[tail] = unit
    else:
        s.whole[OLDEST] = unit
    s.whole[NEWEST] = unit
    s.whole[N_IDLE] += 1


@compiled
def leave_host(s, unit):
    """Take a unit out of host memory."""
    before = s.host_previous[unit]
    after = s.host_next[unit]
    if before >= 0:
        s.host_next[before] = after
    else:
        s.whole[HOST_OLDEST] = after
    if after >= 0:
        s.host_previous[after] = before
    else:
        s.whole[HOST_NEWEST] = before
    s.host_held[unit] = 0
    s.whole[N_HOST] -= 1


@compiled
def keep_on_host(s, limits, unit):
    """Move a unit that leaves the device to host memory, dropping the oldest there if full.

    The copy runs beside the steps and costs them nothing.
    """
    if limits.host_units == 0:
        return
    if s.whole[N_HOST] == limits.host_units:
        leave_host(s, s.whole[HOST_OLDEST])
    tail = s.whole[HOST_NEWEST]
    s.host_previous[unit] = tail
    s.host_next[unit] = -1
    if tail >= 0:
        s.host_next[tail] = unit
    else:
        s.whole[HOST_OLDEST] = unit
    s.whole[HOST_NEWEST] = unit
    s.host_held[unit] = 1
    s.whole[N_HOST] += 1


@compiled
def room(s, limits, blocks):
    """Make `blocks` free by evicting unreferenced units, oldest first; whether it worked."""
    each = limits.unit_blocks
    free = limits.blocks - s.whole[USED] - s.whole[N_IDLE] * each
    if free + s.whole[N_IDLE] * each < blocks:
        return False
    while free < blocks:
        unit = s.whole[OLDEST]
        unlink(s, unit)
        s.unit_refs[unit] = -1
        keep_on_host(s, limits, unit)
        free += each
    return True


@compiled
def cached_units(r, s, limits, i):
    """Leading units of request i that are in the cache, leaving a token to compute."""
    if limits.unit_tokens == 0:
        return 0
    most = min(r.unit_end[i] - r.unit_start[i], (r.prompt[i] - 1) // limits.unit_tokens)
    n = 0
    while n < most and s.unit_refs[r.units[r.unit_start[i] + n]] >= 0:
        n += 1
    return n


@compiled
def host_units(r, s, limits, i, held):
    """Units of request i that follow the `held` cached ones and are in host memory."""
    if limits.host_units == 0 or limits.unit_tokens == 0:
        return 0
    most = min(r.unit_end[i] - r.unit_start[i], (r.prompt[i] - 1) // limits.unit_tokens)
    n = held
    while n < most and s.host_held[r.units[r.unit_start[i] + n]] == 1:
        n += 1
    return n - held


@compiled
def publish(r, s, limits, i):
    """Turn the full prompt units of request i into cached ones, once computed."""
    if limits.unit_tokens == 0:
        return
    each = limits.unit_blocks
    most = min(r.unit_end[i] - r.unit_start[i], r.prompt[i] // limits.unit_tokens)
    while r.shared[i] < most:
        unit = r.units[r.unit_start[i] + r.shared[i]]
        if s.unit_refs[unit] >= 0 or r.blocks[i] < each:
            break  # another request computed it at the same time: this copy stays private
        s.unit_refs[unit] = 1
        if s.host_held[unit] == 1:
            leave_host(s, unit)
        r.blocks[i] -= each
        r.shared[i] += 1
        s.whole[BLOCKED] = 0  # the request at the head may share it


@compiled
def release(r, s, limits, i):
    """Give back everything request i holds in the cache."""
    each = limits.unit_blocks
    s.whole[USED] -= r.blocks[i]
    r.blocks[i] = 0
    n = r.shared[i]
    while n > 0:
        n -= 1
        unit = r.units[r.unit_start[i] + n]
        s.unit_refs[unit] -= 1
        if s.unit_refs[unit] == 0:
            s.whole[USED] -= each
            idle(s, unit)
    r.shared[i] = 0


@compiled
def growth(s, limits, steps):
    """Blocks that the decoding sequences need for their next `steps` steps."""
    b = limits.block_steps
    full = steps // b
    n = s.whole[N_DECODING]
    need = full * n
    k, residues = s.whole[STEP], s.residues
    # A sequence whose context, offset + k, is a multiple of the block starts a new one.
    for j in range(steps - full * b):
        need += residues[(-(k + j)) % b]
    return need


@compiled
def affordable(s, limits, steps):
    """Most of the next `steps` decoding steps whose blocks are free or can be evicted."""
    spare = limits.blocks - s.whole[USED]
    n = s.whole[N_DECODING]
    if n * (steps // limits.block_steps + 1) <= spare:
        return steps
    low = 0
    high = steps
    while low < high:
        middle = (low + high + 1) // 2
        if growth(s, limits, middle) <= spare:
            low = middle
        else:
            high = middle - 1
    return low


@compiled
def grow(s, limits, steps):
    """Book the blocks of the next `steps` steps; a gang has booked its whole length."""
    if limits.gang == 1:
        return
    need = growth(s, limits, steps)
    if need > 0:
        room(s, limits, need)
        s.whole[USED] += need


@compiled
def settle(r, s, limits, i):
    """Bring the private blocks of a decoding request up to the current step.

    A gang has booked its whole length. Else the steps k in [begin, now) with
    (offset + k) % block_steps == 0 each opened a block.
    """
    if limits.gang == 1:
        return
    b = limits.block_steps
    low = r.offset[i] + r.begin[i]
    high = r.offset[i] + s.whole[STEP]
    r.blocks[i] += (high + b - 1) // b - (low + b - 1) // b


@compiled
def blocks_for(limits, tokens):
    """Blocks that hold `tokens` tokens of one sequence."""
    return (tokens + limits.block_tokens - 1) // limits.block_tokens + limits.sequence_blocks
