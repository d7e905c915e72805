"""Types of options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter


def _count(_: Any, tokens: Sequence[Any]) -> int:
    """A whole number, with or without a suffix: 8192, 8k, 8Ki, 1M."""
    from ..units import whole

    text = tokens[0].value
    number = whole(text)
    if number is None:
        raise ValueError(f"'{text}' is not a whole number. Write for example 8192, 8k or 8Ki.")
    return number


Count = Annotated[int, Parameter(converter=_count)]
"""Tokens, sequences or requests: 8192, 8k (8,000), 8Ki (8,192), 1M."""
