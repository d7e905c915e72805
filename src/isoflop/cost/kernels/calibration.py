"""Fitted kernel parameters of a device family, apart from datasheet facts.

One TOML per family in `data/calibrations/kernels-<family>.toml`, written by
`tools/calibrate_kernels.py`, naming its data. A family without measurements borrows the family
it descends from and its answers say "analytic".
"""

from __future__ import annotations

from attrs import field, frozen

from ... import catalog
from ...provenance import Source
from ..collectives import CollectiveParameters
from .attention import DecodeParameters, PrefillParameters
from .gemm import GemmParameters
from .moe import MoeParameters

BORROWED = {
    "blackwell": "hopper",
    "blackwell-consumer": "ada",
    "ampere-consumer": "ampere",
    "volta": "ampere",
    "turing": "ampere",
    "pascal": "ampere",
}
"""Family -> measured family whose kernels it runs or descends from; others use `DEFAULT`."""
DEFAULT = "hopper"


@frozen(kw_only=True)
class FitQuality:
    """How well one kernel model meets measurements it was not fitted on.

    Attributes
    ----------
    rows, held_out : int
    median_error, mean_error, p90_error : float
        Of |predicted / measured - 1| on held-out shapes of the fitted devices.
    left_out_error : float
        Median error on a device when its family's fit never saw it (0: not measured).
    sigma : float
        Half-width of the central 90% of log(measured / predicted), over 1.645.
    coverage : float
        Share of held-out rows inside the 90% interval.
    """

    rows: int
    held_out: int
    median_error: float
    mean_error: float
    p90_error: float
    left_out_error: float = 0.0
    sigma: float
    coverage: float
    data: str


@frozen(kw_only=True)
class KernelCalibration:
    """All kernel parameters of one family.

    Attributes
    ----------
    devices : tuple of str
        Catalog ids that were measured.
    gemm, moe : dict
        By rate class: bf16, fp8, fp8-block, int4.
    prefill, decode, mla_decode
        Attention parameters.
    all_reduce_custom : CollectiveParameters
        An engine's own all-reduce inside a captured graph.
    nccl : dict
        The communication library, by pattern.
    quality : dict of str to FitQuality
    """

    id: str
    family: str
    devices: tuple[str, ...]
    gemm: dict[str, GemmParameters]
    moe: dict[str, MoeParameters]
    prefill: PrefillParameters
    decode: DecodeParameters
    mla_decode: DecodeParameters
    all_reduce_custom: CollectiveParameters
    nccl: dict[str, CollectiveParameters]
    quality: dict[str, FitQuality]
    source: str
    note: str = ""
    sources: dict[str, Source] = field(factory=dict)


def load_kernels(family: str) -> tuple[KernelCalibration, bool]:
    """The calibration of a family, and whether it is the family's own."""
    known = {i.removeprefix("kernels-") for i in catalog.paths("calibrations") if "kernels-" in i}
    own = family in known
    name = family if own else BORROWED.get(family, DEFAULT)
    entry = catalog.load("calibrations", f"kernels-{name}", KernelCalibration, "calibration")
    return entry, own
