"""How attention libraries cut their work: tile sizes, packing and splits of FlashAttention 2 and 3.

References
----------
Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning", 2023.
Shah et al., "FlashAttention-3: Fast and Accurate Attention with Asynchrony and Low-precision",
2024. Tile tables and split rules are those of the libraries' paged kernels.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from attrs import frozen

from ..features import Array

LibraryName = Literal["fa2", "fa3"]
FULL = 0.8
"""Share of the slots that blocks must fill for a library not to split keys."""
GOOD_WAVES = 0.85
"""FlashAttention 2 takes the fewest splits that fill waves to this share of the best."""
SPREAD = 1.1
"""FlashAttention 3 gives each unit its even share of key blocks, times this."""
MOST_SPLITS = 128
DECODE_ROWS = 64.0
"""Rows of a matrix tile that the query heads of one KV head are packed into."""
MATRIX_ROWS = 16.0
"""Rows of one matrix instruction."""
QUARTER_RATE = 0.3
"""Cut of the matrix rate below which a tile of fewer query heads is padded to MATRIX_ROWS alone.

On an H20, cut to a quarter, up to 16 heads per KV head cost the same and stay bound by memory, and
64 three times as much (alibaba/InferSim's table); on uncut parts the full tile hides behind memory,
and their fits were made with it."""


@frozen(kw_only=True)
class AttentionLibrary:
    """Tiles of one attention library over a paged cache.

    Attributes
    ----------
    query_rows, key_block : tuple of (head width, size)
        Size up to each head width, increasing.
    packs_prompts : bool
        Whether the query heads that share a KV head share tiles in prompts.
    packs_windows : bool
        Whether they do when decoding under a sliding window.
    blocks_per_unit : float
        Blocks that run on one unit at a time.
    balances : bool
        Whether splits follow each unit's even share of the key blocks rather than whole waves.
    """

    query_rows: tuple[tuple[float, float], ...]
    key_block: tuple[tuple[float, float], ...]
    packs_prompts: bool
    packs_windows: bool
    blocks_per_unit: float
    balances: bool


LIBRARIES: dict[str, AttentionLibrary] = {
    "fa2": AttentionLibrary(
        query_rows=((np.inf, 64.0),), key_block=((64.0, 256.0), (128.0, 128.0), (np.inf, 64.0)),
        packs_prompts=False, packs_windows=False, blocks_per_unit=2.0, balances=False,
    ),
    "fa3": AttentionLibrary(
        query_rows=((64.0, 192.0), (256.0, 128.0), (np.inf, 64.0)),
        key_block=((128.0, 128.0), (192.0, 96.0), (np.inf, 64.0)),
        packs_prompts=True, packs_windows=True, blocks_per_unit=1.0, balances=True,
    ),
}  # fmt: skip


def by_width(table: tuple[tuple[float, float], ...], head_dim: Array) -> Array:
    """The table's size at each head width."""
    limits = np.array([limit for limit, _ in table])
    return np.array([size for _, size in table])[np.searchsorted(limits, head_dim)]


def key_splits(library: AttentionLibrary, blocks: Array, key_blocks: Array, units: int) -> Array:
    """Pieces the library cuts each block's keys into.

    Parameters
    ----------
    blocks : array
        Independent blocks of work: sequences by groups of heads.
    key_blocks : array
        Key blocks each of them walks.
    """
    if library.balances:
        share = np.maximum(np.ceil(SPREAD * blocks * key_blocks / units), 1.0)
        return np.clip(np.ceil(key_blocks / share), 1.0, MOST_SPLITS)
    slots = units * library.blocks_per_unit
    out = np.ones(np.shape(blocks))
    few = (blocks < FULL * slots) & (key_blocks > 1)
    if not np.any(few):
        return out
    work, keys = blocks[few], key_blocks[few]
    most = np.minimum(np.minimum(keys, slots), MOST_SPLITS)
    splits = np.arange(1.0, most.max() + 1.0)[:, None]
    waves = work * splits / slots
    pieces = np.ceil(keys / splits)
    smaller = np.vstack([np.ones((1, work.size), bool), pieces[1:] != pieces[:-1]])
    filled = np.where(smaller & (splits <= most), waves / np.ceil(waves), 0.0)
    out[few] = 1.0 + np.argmax(filled >= GOOD_WAVES * filled.max(axis=0), axis=0)
    return out


def smooth_splits(library: AttentionLibrary, blocks: Array, key_blocks: Array, units: int) -> Array:
    """`key_splits` without its rounding: the mean over sequences of unlike lengths."""
    slots = units * library.blocks_per_unit
    target = slots / (SPREAD * np.maximum(blocks, 1e-9))
    return np.clip(target, 1.0, np.clip(key_blocks, 1.0, MOST_SPLITS))
