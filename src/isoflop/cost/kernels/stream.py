"""Elementwise and recurrent kernels: bytes at streaming bandwidth plus a fixed time."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ..features import Array

HALF_BYTES_PER_UNIT = 24 * 1024.0
"""Bytes per compute unit at which a streaming kernel reaches half its asymptotic bandwidth."""


@frozen(kw_only=True)
class StreamParameters:
    """Elementwise kernels.

    Attributes
    ----------
    bandwidth_efficiency : float
        Asymptotic share of peak memory bandwidth.
    fixed_s : float
        Time of an empty kernel inside a captured graph.
    flop_efficiency : float
        Share of the matrix rate that chunked scans reach.
    """

    bandwidth_efficiency: float = 0.85
    fixed_s: float = 1.6e-6
    flop_efficiency: float = 0.35


def stream_time_s(
    p: StreamParameters,
    flop: Array,
    moved_bytes: Array,
    *,
    flop_per_s: float,
    bandwidth_bytes_per_s: float,
    cache_bytes: float,
) -> Array:
    """Seconds of one elementwise or scan kernel.

    What fits the last-level cache was just written by the kernel before and is read from there,
    at about three times the memory bandwidth.
    """
    in_cache = moved_bytes <= 0.5 * cache_bytes
    speed = bandwidth_bytes_per_s * p.bandwidth_efficiency * np.where(in_cache, 2.0, 1.0)
    memory = moved_bytes / speed
    compute = flop / (flop_per_s * p.flop_efficiency)
    time = np.maximum(memory, compute) + p.fixed_s
    return np.where((moved_bytes > 0) | (flop > 0), time, 0.0)
