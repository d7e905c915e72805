"""SeedLM: weights as seeds of a shift register that generates a random basis, and a few integers.

A block w of C weights is stored as a K-bit seed s, P integers of 4 bits and a shared 4-bit
exponent: w ~ U(s) t, t = q 2^e, where U(s) is C x P with entries (v - 2^(K-1)) / (2^(K-1) - 1)
made of successive states v of a K-bit linear feedback shift register started at s. Bits per
weight: (K + 4 + 4 P) / C, so 4.0 for C = 8, P = 3, K = 16 and 3.0 for C = 12, P = 4, K = 16.

All 2^K - 1 seeds are searched. With U = Q R, the unquantized residual |w|^2 - |Q^T w|^2 bounds a
seed's error from below, and its exact error is that plus |R (t - q 2^e)|^2: most seeds are ruled
out by the bound, and the result is the same as evaluating each.

References
----------
Shafipour et al., SeedLM, arXiv 2410.10714. The paper's table of register taps is not reproduced;
the taps here have full period, which is what the method needs. Data-free.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from attrs import frozen

from ...errors import InvalidInput
from ._base import Calibration, Quantized, check_weight

TAPS = {8: (8, 6, 5, 4), 12: (12, 11, 10, 4), 16: (16, 15, 13, 4)}
"""Register length -> feedback taps of full period."""

COEFFICIENT_BITS = 4
EXPONENT_BITS = 4
TILE = 1024
"""Seeds handled together; their factors stay in the second-level cache."""


def lfsr_states(seeds: np.ndarray, bits: int, count: int) -> np.ndarray:
    """`count` successive register states from each seed, the seed first: shape (seeds, count)."""
    state = seeds.astype(np.uint32)
    result = np.empty((seeds.size, count), np.uint32)
    for i in range(count):
        result[:, i] = state
        feedback = np.zeros_like(state)
        for tap in TAPS[bits]:
            feedback ^= state >> np.uint32(bits - tap)
        state = (state >> np.uint32(1)) | ((feedback & 1) << np.uint32(bits - 1))
    return result


def bases(seeds: np.ndarray, bits: int, block: int, rank: int) -> np.ndarray:
    """The matrices U of the seeds, float64 of shape (seeds, block, rank)."""
    states = lfsr_states(seeds, bits, block * rank).astype(np.float64)
    half = 2.0 ** (bits - 1)
    return ((states - half) / (half - 1)).reshape(seeds.size, block, rank)


@cache
def factors(bits: int, block: int, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Q^T (rank, block, seeds), R and R^-1 (rank, rank, seeds) of all seeds, float32."""
    seeds = np.arange(1, 1 << bits)
    q, r = np.linalg.qr(bases(seeds, bits, block, rank))
    inverse = np.linalg.inv(r)

    def seeds_last(m: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(m, 0, -1), dtype=np.float32)

    return seeds_last(q.swapaxes(1, 2)), seeds_last(r), seeds_last(inverse)


@cache
def _search_body(block: int, rank: int):
    """The search, compiled for one block shape where numba is present."""

    def search(w, q, r, inverse, low, high, best_error, best_seed, best_e, best_q):
        seeds, blocks = q.shape[2], w.shape[0]
        residual = np.empty(TILE, np.float32)
        tile = np.empty((rank, block, TILE), np.float32)
        x = np.zeros(block, np.float32)
        a = np.empty(TILE, np.float32)
        projected = np.empty(rank, np.float32)
        t = np.empty(rank, np.float32)
        trial = np.empty(rank, np.float32)
        steps = np.empty(high - low + 1, np.float32)
        for e in range(low, high + 1):
            steps[e - low] = np.float32(2.0**e)
        for first in range(0, seeds, TILE):
            n = min(TILE, seeds - first)
            # A copy indexed by the loop alone: an index that could be negative is not vectorised.
            for p in range(rank):
                for c in range(block):
                    for s in range(n):
                        tile[p, c, s] = q[p, c, first + s]
            for b in range(blocks):
                power = np.float32(0)
                for c in range(block):
                    x[c] = w[b, c]
                    power += x[c] * x[c]
                for s in range(n):
                    residual[s] = power
                for p in range(rank):
                    for s in range(n):
                        a[s] = np.float32(0)
                    for c in range(block):
                        for s in range(n):
                            a[s] += tile[p, c, s] * x[c]
                    for s in range(n):
                        residual[s] -= a[s] * a[s]
                for s in range(n):
                    if residual[s] >= best_error[b]:
                        continue
                    largest = np.float32(0)
                    for i in range(rank):
                        projected[i] = np.float32(0)
                        for c in range(block):
                            projected[i] += tile[i, c, s] * x[c]
                    for i in range(rank):
                        value = np.float32(0)
                        for j in range(i, rank):
                            value += inverse[i, j, first + s] * projected[j]
                        t[i] = value
                        largest = max(largest, abs(value))
                    at = 0
                    while at < high - low and largest > np.float32(7.5) * steps[at]:
                        at += 1
                    step = steps[at]
                    for i in range(rank):
                        trial[i] = min(max(np.rint(t[i] / step), -8.0), 7.0)
                    error = max(residual[s], np.float32(0))
                    for i in range(rank):
                        value = np.float32(0)
                        for j in range(i, rank):
                            value += r[i, j, first + s] * (t[j] - trial[j] * step)
                        error += value * value
                    if error < best_error[b]:
                        best_error[b] = error
                        best_seed[b] = first + s + 1
                        best_e[b] = low + at
                        for i in range(rank):
                            best_q[b, i] = np.int8(trial[i])

    try:
        import numba
    except ImportError:
        return search
    return numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc"})(search)


def decode_blocks(seed, exponent, q, bits: int, block: int) -> np.ndarray:
    """Weights (blocks, block) float32 from stored seeds, exponents and integers (blocks, rank)."""
    u = bases(np.asarray(seed), bits, block, q.shape[1])
    t = np.ldexp(q.astype(np.float64), np.asarray(exponent)[:, None])
    return np.einsum("bcp,bp->bc", u, t).astype(np.float32)


@frozen(kw_only=True)
class SeedLM:
    """SeedLM with a full seed search. The format is ignored: the method is its own format.

    Attributes
    ----------
    block, rank, seed_bits : int
        C, P and K; 8, 3, 16 store 4 bits per weight, 12, 4, 16 store 3.
    """

    uses_calibration: bool = False
    block: int = 8
    rank: int = 3
    seed_bits: int = 16

    def __attrs_post_init__(self) -> None:
        if self.seed_bits not in TAPS or not 1 <= self.rank <= self.block:
            raise InvalidInput(
                f"SeedLM with C = {self.block}, P = {self.rank}, K = {self.seed_bits} is not "
                f"possible; K is one of {', '.join(map(str, TAPS))} and P at most C."
            )

    @property
    def bits_per_weight(self) -> float:
        """(K + 4 + 4 P) / C."""
        return (self.seed_bits + EXPONENT_BITS + COEFFICIENT_BITS * self.rank) / self.block

    def quantize(self, weight: np.ndarray, fmt, calibration: Calibration) -> Quantized:
        """See `Quantizer`."""
        weight = check_weight(weight)
        if weight.shape[1] % self.block:
            raise InvalidInput(
                f"Rows of {weight.shape[1]} weights do not divide into SeedLM blocks of "
                f"{self.block}. Choose another block length."
            )
        blocks = weight.reshape(-1, self.block)
        high = int(np.ceil(np.log2(max(float(np.abs(weight).max()), 1e-30))))
        low = high - (1 << EXPONENT_BITS) + 1
        n = len(blocks)
        error = np.full(n, np.inf, np.float32)
        seed, exponent = np.ones(n, np.int64), np.full(n, low, np.int64)
        q = np.zeros((n, self.rank), np.int8)
        body = _search_body(self.block, self.rank)
        body(
            blocks, *factors(self.seed_bits, self.block, self.rank), low, high, error, seed,
            exponent, q,
        )  # fmt: skip
        values = decode_blocks(seed, exponent, q, self.seed_bits, self.block)
        per_block = self.seed_bits + EXPONENT_BITS + COEFFICIENT_BITS * self.rank
        # one byte more: the tensor's largest exponent
        return Quantized(
            values=values.reshape(weight.shape), storage_bytes=-(-n * per_block // 8) + 1,
            facts={"bits_per_weight": self.bits_per_weight},
        )  # fmt: skip


QUANTIZER = SeedLM
