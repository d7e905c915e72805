"""Weight quantizers: one file each, one protocol (see `_base.Quantizer`)."""

from __future__ import annotations

from ... import registry
from ...errors import UnknownName
from ._base import Calibration, Quantized, Quantizer, load_weight_format

PACKAGE = __name__


def names() -> tuple[str, ...]:
    """Names of the quantizers."""
    return registry.names(PACKAGE)


def load(name: str, **options) -> Quantizer:
    """The quantizer called `name`, with its options.

    Raises
    ------
    UnknownName
    """
    known = names()
    if name.strip().lower().replace("_", "-") not in known:
        raise UnknownName("quantizer", name, known, f"It is one of: {', '.join(known)}.")
    return registry.find(PACKAGE, name, "QUANTIZER", "quantizer")(**options)


__all__ = ["Calibration", "Quantized", "Quantizer", "load", "load_weight_format", "names"]
