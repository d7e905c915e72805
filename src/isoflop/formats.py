"""Number formats as the cost engine sees them: bits moved per value, block scales included."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen

from . import catalog
from .errors import InvalidInput
from .provenance import Source

KIND = "formats"


@frozen(kw_only=True)
class BlockScale:
    """A scale shared by a block of values.

    Attributes
    ----------
    bits : int
        Bits of one scale (and zero point, if stored).
    block : int
        Values that share it.
    """

    bits: int
    block: int

    def __attrs_post_init__(self) -> None:
        if self.bits < 0 or self.block < 1:
            raise InvalidInput(f"a scale of {self.bits} bits per {self.block} values is not one")


@frozen(kw_only=True)
class NumberFormat:
    """A storage format.

    Attributes
    ----------
    bits : int
        Bits of one code word, 1 to 64.
    scales : tuple of BlockScale
        Block scales stored beside the values, each counted in the bytes.
    rates_as : tuple of str
        Names under which an accelerator's matrix-rate table may list this format, best first;
        the first one the device has is the rate its GEMMs run at.
    role : {"compute", "storage"}
        Whether matrix units multiply it directly, or weights are expanded to 16 bits first.
    """

    id: str
    name: str
    bits: int
    exponent_bits: int | None = None
    mantissa_bits: int | None = None
    scales: tuple[BlockScale, ...] = ()
    rates_as: tuple[str, ...] = ()
    role: Literal["compute", "storage"] = "compute"
    aliases: tuple[str, ...] = ()
    source: str
    note: str = ""
    sources: dict[str, Source] = field(factory=dict)

    @property
    def bits_per_value(self) -> float:
        """Bits moved per value with its share of every block scale."""
        return self.bits + sum(s.bits / s.block for s in self.scales)

    @property
    def bytes_per_value(self) -> float:
        """Bytes moved per value, scales included."""
        return self.bits_per_value / 8.0


def load_format(name: str) -> NumberFormat:
    """The catalog's number format called `name` (id or alias)."""
    return catalog.load(KIND, name, NumberFormat, "number format")
