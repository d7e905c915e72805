"""Published names of checkpoints and precisions, matched to the catalog's."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache

from ..errors import UnknownName
from ..formats import load_format
from ..models import ModelSpec, load_model


@lru_cache(maxsize=1024)
def checkpoint(name: str) -> ModelSpec:
    """`load_model`, once per name: files repeat theirs thousands of times."""
    return load_model(name)


def precision(text: str) -> str:
    """The catalog's number format among the words of a precision, or the text itself."""
    for word in (text, *re.split(r"[\s,/+]+", text)):
        with suppress(UnknownName):
            load_format(word)
            return word
    return text
