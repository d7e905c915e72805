"""Fitted parameters of training steps: what the kernel and network models leave out.

One TOML per device family in `data/calibrations/training-<family>.toml`, fitted by
`tools/calibrate_training.py` on whole sources; a family without its own takes the one it descends
from.
"""

from __future__ import annotations

from attrs import field, frozen

from .. import catalog
from ..cost.kernels.calibration import DEFAULT, ancestry
from ..provenance import Source


@frozen(kw_only=True)
class TrainingCalibration:
    """Fitted parameters of one family.

    Attributes
    ----------
    gemm, gemm_fp8, gemm_fp4 : float
        Factor on the time of products by operand width.
    attention : float
        Factor on fused attention, forward.
    attention_backward : float
        Further factor on its backward pass, whose kernels reach a smaller share of peak.
    attention_older : float
        Factor on fused kernels not written for the family (FlashAttention-2 on Hopper).
    stream : float
        Factor on elementwise kernels where they are fused; `eager` multiplies it where not.
    stream_backward : float
        Further factor on their backward pass.
    watts_per_flop_per_s : float
        Board power per dense 16-bit rate at which the family's fitted devices hold their clocks;
        0 where unknown.
    power_exponent : float
        Clocks of boards with less power per rate fall as their share to this power.
    eager : float
    experts : float
        Factor on grouped products of routed experts.
    scan : float
        Factor on the scans of state-space and linear-attention layers, whose chunked kernels stay
        far below both roofs.
    scale_up, network : float
        Share of link bandwidth that collectives reach inside a node and between nodes.
    ramp : float
        Bytes of a message at which a ring reaches half of that share.
    exchange : float
        Share of it that exchanges of tokens between experts reach.
    exchange_fused : float
        The same where one kernel dispatches and permutes.
    overlap_rest : float
        Share of a tensor-parallel collective that chunked overlap leaves exposed: the first and
        last of eight chunks. Not fitted: the measurements do not identify it.
    contention : float
        Share of hidden communication that slows the compute it runs beside.
    launch : float
        Host seconds per modelled kernel (each stands for the few small ones around it) where
        launches are not captured; hidden while the device is slower.
    launch_traced : float
        The same under a profiler that records every launch.
    skew_traced : float
        Share of a layer's compute that its tensor-parallel collectives wait, under such a profiler,
        for the slowest of their ranks.
    step : float
        Host and input seconds per step.
    straggler : float
        Slow-down per doubling of the nodes.
    sigma, sigma_experts : float
        Standard deviation of log(measured / predicted) of a source, dense models and models with
        routed experts; 0 where none was measured.
    """

    id: str
    family: str
    gemm: float = 1.0
    gemm_fp8: float = 1.2
    gemm_fp4: float = 1.5
    attention: float = 1.0
    attention_backward: float = 1.2
    stream: float = 1.0
    eager: float = 1.3
    stream_backward: float = 1.0
    attention_older: float = 1.0
    watts_per_flop_per_s: float = field(default=0.0, metadata={"plain": True})
    power_exponent: float = 0.4
    experts: float = 1.2
    scan: float = 9.0
    scale_up: float = 0.75
    network: float = 0.8
    ramp: float = 4e6
    exchange: float = 0.7
    exchange_fused: float = 0.85
    overlap_rest: float = 0.25
    contention: float = 0.1
    launch: float = 2e-5
    launch_traced: float = 1e-4
    skew_traced: float = 0.1
    step: float = 2e-3
    straggler: float = 0.005
    sigma: float = 0.1
    sigma_experts: float = 0.0
    fitted_on: str = ""
    rows: int = 0
    source: str
    note: str = ""
    sources: dict[str, Source] = field(factory=dict)


def load_training(family: str) -> tuple[TrainingCalibration, bool]:
    """The calibration of a family, and whether it is its own."""
    known = catalog.paths("calibrations")
    for name in (*ancestry(family), DEFAULT):
        if f"training-{name}" in known:
            entry = catalog.load(
                "calibrations", f"training-{name}", TrainingCalibration, "calibration"
            )
            return entry, name == family
    return TrainingCalibration(
        id="training-none", family=family, source="estimate", note="nothing fitted yet"
    ), False
