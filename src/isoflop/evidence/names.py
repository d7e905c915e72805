"""Published names of checkpoints and precisions, matched to the catalog's.

Measurement files name a checkpoint by who quantised it and for what ("nvidia/Llama-3.3-70B-
Instruct-FP4"); the architecture, which is what a price needs, is the catalog's entry without those
words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache

from ..errors import UnknownName
from ..formats import load_format
from ..models import ModelSpec, load_model

SUFFIX = re.compile(
    r"-(it|instruct|chat|base|hf|fp8|fp4|nvfp4|mxfp4|bf16|fp16|int4|int8|awq|gptq|quantized|dynamic|"
    r"block|w\d+a\d+|v\d+|\d{4}|turbo)$"
)
"""Words at the end of a checkpoint's name that do not change its architecture."""


@lru_cache(maxsize=1024)
def checkpoint(name: str) -> ModelSpec:
    """The model of a checkpoint's published name.

    Raises
    ------
    UnknownName
        If no catalog entry is called so, with or without the publisher, the training stage, the
        date and the quantisation in its name.
    """
    try:
        return load_model(name)
    except UnknownName:
        for other in _shorter(name):
            with suppress(UnknownName):
                return load_model(other)
        raise


def _shorter(name: str) -> Iterator[str]:
    """The name without its publisher, then without one suffix after the other."""
    own = name.strip().lower().rpartition("/")[2].replace(" ", "-")
    while own:
        yield own
        yield own.removeprefix("meta-")
        cut = SUFFIX.sub("", own)
        own = cut if cut != own else ""


def precision(text: str) -> str:
    """The catalog's number format among the words of a precision, or the text itself."""
    for word in (text, *re.split(r"[\s,/+]+", text)):
        with suppress(UnknownName):
            load_format(word)
            return word
    return text
