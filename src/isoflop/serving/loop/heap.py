"""Binary min-heaps in arrays."""

from __future__ import annotations

from . import compiled


@compiled
def push(keys, items, size, key, item):
    """Add to a binary min-heap ordered by (key, item); returns nothing, caller counts."""
    i = size
    while i > 0:
        up = (i - 1) // 2
        if keys[up] < key or (keys[up] == key and items[up] <= item):
            break
        keys[i] = keys[up]
        items[i] = items[up]
        i = up
    keys[i] = key
    items[i] = item


@compiled
def pop(keys, items, size):
    """Remove the smallest of a heap of `size` items."""
    last = size - 1
    key = keys[last]
    item = items[last]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= last:
            break
        right = child + 1
        if right < last and (
            keys[right] < keys[child]
            or (keys[right] == keys[child] and items[right] < items[child])
        ):
            child = right
        if keys[child] > key or (keys[child] == key and items[child] >= item):
            break
        keys[i] = keys[child]
        items[i] = items[child]
        i = child
    keys[i] = key
    items[i] = item
