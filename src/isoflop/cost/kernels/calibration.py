"""Fitted kernel parameters of a device family, apart from datasheet facts.

Per family, in `data/calibrations/`: `gemm-<family>.toml` (`tools/calibrate_gemm.py`) and
`kernels-<family>.toml` (`tools/calibrate_kernels.py`: the rest), each naming its data. A family
without measurements borrows the family it descends from, or the mean of all, and its answers say
"analytic".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from attrs import evolve, field, frozen

from ... import catalog
from ...provenance import Source
from ..collectives import CollectiveParameters
from .attention import DecodeParameters, PrefillParameters
from .gemm import GemmParameters
from .moe import MoeParameters

T = TypeVar("T")

BORROWED = {
    "rubin": "blackwell",
    "blackwell": "hopper",
    "blackwell-consumer": "ada",
    "ampere-consumer": "ampere",
    "volta": "ampere",
    "turing": "ampere",
    "pascal": "ampere",
}
"""Family -> the one whose kernels it runs or descends from; others use `DEFAULT`."""
DEFAULT = "hopper"


def ancestry(family: str) -> Iterator[str]:
    """A family and those it descends from, nearest first."""
    while family:
        yield family
        family = BORROWED.get(family, "")


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
    bias : float
        Median of predicted / measured, less one.
    low, high : float
        5% and 95% quantiles of measured / predicted (0: not recorded).
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
    bias: float = 0.0
    low: float = 0.0
    high: float = 0.0


@frozen(kw_only=True)
class GemmCalibration:
    """GEMM parameters of one family, by operand class: bf16, fp8, fp8-block."""

    id: str
    family: str
    devices: tuple[str, ...]
    gemm: dict[str, GemmParameters]
    quality: dict[str, FitQuality] = field(factory=dict)
    source: str
    note: str = ""
    sources: dict[str, Source] = field(factory=dict)


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
    gemm: dict[str, GemmParameters] = field(factory=dict)
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


def load_gemm(family: str) -> GemmCalibration:
    """GEMM parameters of a family, of the one it descends from, or the mean of the measured ones.

    `gemm_time_s(load_gemm("hopper").gemm["bf16"], ...)`.
    """
    return _load("gemm", family, GemmCalibration, "default")


def load_kernels(family: str) -> tuple[KernelCalibration, bool]:
    """The calibration of a family, and whether it is the family's own."""
    entry = _load("kernels", family, KernelCalibration, DEFAULT)
    gemm = load_gemm(family)
    return _joined(family, entry, gemm), entry.family == family


def _load(kind: str, family: str, cls: type[T], default: str) -> T:
    known = catalog.paths("calibrations")
    found = (f"{kind}-{name}" for name in ancestry(family))
    name = next((name for name in found if name in known), f"{kind}-{default}")
    return catalog.load("calibrations", name, cls, "calibration")


_JOINED: dict[str, tuple[tuple[object, ...], KernelCalibration]] = {}


def _joined(family: str, entry: KernelCalibration, gemm: GemmCalibration) -> KernelCalibration:
    """One calibration out of its files; the same object while the files are the same."""
    parts = (entry, gemm)
    seen = _JOINED.get(family)
    if seen is None or any(a is not b for a, b in zip(seen[0], parts)):
        whole = evolve(entry, gemm=gemm.gemm, quality={**gemm.quality, **entry.quality})
        _JOINED[family] = seen = (parts, whole)
    return seen[1]
