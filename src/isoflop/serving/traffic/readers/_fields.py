"""Fields of a trace as numbers, every problem with its line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....cost.features import Array
from ....errors import InvalidInput

MOST_TOKENS = 2**31 - 1
"""Longer sequences are no model's; a length beyond is something else than a length."""


def lengths(values: Sequence[Any], what: str, name: str, lines: Sequence[int]) -> Array:
    """Token counts: whole numbers from 1 to `MOST_TOKENS`, as numbers or text.

    Raises
    ------
    InvalidInput
        With the line of the first that is none.
    """
    found = numbers(values, what, name, lines)
    bad = ~((found >= 1) & (found <= MOST_TOKENS) & (found == np.floor(found)))
    if np.any(bad):
        worst = int(np.argmax(bad))
        raise InvalidInput(
            f"Line {lines[worst]} of '{name}' has {values[worst]} as {what}; it must be a whole "
            f"number, at least 1 and at most {MOST_TOKENS:,}."
        )
    return found.astype(np.int64)


def numbers(values: Sequence[Any], what: str, name: str, lines: Sequence[int]) -> Array:
    """Numbers, given as numbers or text; infinite and missing ones are left to the caller.

    Raises
    ------
    InvalidInput
        With the line of the first that is none.
    """
    out = np.empty(len(values))
    for i, value in enumerate(values):
        try:
            if isinstance(value, bool):
                raise ValueError
            out[i] = float(value)
        except OverflowError:  # a whole number beyond every float
            out[i] = np.inf
        except (TypeError, ValueError):
            raise InvalidInput(
                f"Line {lines[i]} of '{name}' has '{value}' as {what}, which is not a number."
            ) from None
    return out
