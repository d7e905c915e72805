"""Huffman codes of integers: canonical, so that a list of code lengths is the whole table.

References
----------
Huffman, A Method for the Construction of Minimum-Redundancy Codes, Proc. IRE 40 (1952).
"""

from __future__ import annotations

import heapq

import numpy as np
from attrs import frozen

from ..errors import InvalidInput

HEADER_BYTES = 8
"""Smallest symbol and number of symbols of the table, 32 bits each."""


@frozen(kw_only=True, eq=False)
class HuffmanCode:
    """A code of the integers `low`, `low` + 1, ...

    Attributes
    ----------
    lengths : np.ndarray
        Bits of each integer's word, uint8; 0 where it does not occur.
    """

    low: int
    lengths: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> HuffmanCode:
        """The code of least total length for an integer array.

        Raises
        ------
        InvalidInput
            For an empty array, or one that is not of integers.
        """
        values = np.asarray(values)
        if not values.size or values.dtype.kind not in "iu":
            raise InvalidInput(f"Huffman codes are of integers; {values.dtype} {values.shape}.")
        low = int(values.min())
        counts = np.bincount((values.reshape(-1) - low).astype(np.int64))
        return cls(low=low, lengths=_lengths(counts))

    @property
    def table_bytes(self) -> int:
        """Bytes of the table: one per integer in the range, and its header."""
        return HEADER_BYTES + len(self.lengths)

    @property
    def words(self) -> np.ndarray:
        """Canonical code words, uint64: by length, then by value; the first is all zeros."""
        words = np.zeros(len(self.lengths), np.uint64)
        word, before = 0, 0
        for i in np.lexsort((np.arange(len(self.lengths)), self.lengths)):
            length = int(self.lengths[i])
            if length:
                word <<= length - before
                words[i], word, before = word, word + 1, length
        return words

    def bits(self, values: np.ndarray) -> int:
        """Bits of the encoded array, without the table."""
        return int(self.lengths[np.asarray(values).reshape(-1) - self.low].sum(dtype=np.int64))

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Words one after the other, first bit highest in byte 0: uint8."""
        index = np.asarray(values).reshape(-1) - self.low
        lengths = self.lengths[index].astype(np.int64)
        ends = np.cumsum(lengths)
        flags = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
        words = self.words[index]
        for back in range(int(self.lengths.max())):
            has = lengths > back
            flags[ends[has] - 1 - back] = (words[has] >> np.uint64(back)).astype(np.uint8) & 1
        return np.packbits(flags)

    def decode(self, stream: np.ndarray, count: int) -> np.ndarray:
        """The first `count` integers of a stream, int64.

        Raises
        ------
        InvalidInput
            If the stream ends before.
        """
        found = {
            (int(length), int(word)): i + self.low
            for i, (length, word) in enumerate(zip(self.lengths, self.words)) if length
        }  # fmt: skip
        out = np.empty(count, np.int64)
        flags = iter(np.unpackbits(np.asarray(stream, np.uint8)).tolist())
        for i in range(count):
            length = word = 0
            while (length, word) not in found or not length:
                bit = next(flags, None)
                if bit is None:
                    raise InvalidInput(f"The stream ends after {i} of {count} integers.")
                length, word = length + 1, 2 * word + bit
            out[i] = found[length, word]
        return out


def _lengths(counts: np.ndarray) -> np.ndarray:
    """Depth of each symbol in the Huffman tree (uint8); 0 for those that do not occur."""
    alive = np.flatnonzero(counts)
    lengths = np.zeros(len(counts), np.uint8)
    if len(alive) == 1:
        lengths[alive] = 1
        return lengths
    parents: dict[int, int] = {}
    heap = [(int(counts[i]), int(i)) for i in alive]
    heapq.heapify(heap)
    node = len(counts)
    while len(heap) > 1:
        (a, i), (b, j) = heapq.heappop(heap), heapq.heappop(heap)
        parents[i] = parents[j] = node
        heapq.heappush(heap, (a + b, node))
        node += 1
    depths = {node - 1: 0}
    for inner in range(node - 2, len(counts) - 1, -1):
        depths[inner] = depths[parents[inner]] + 1
    for i in alive:
        lengths[i] = depths[parents[int(i)]] + 1
    return lengths
