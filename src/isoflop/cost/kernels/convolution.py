"""Two-dimensional convolutions: dense, depthwise and partial, 16-bit, channels last.

A dense convolution is a product of pixels x (channels in x kernel area) by channels out whose left
operand is never written: tiles in waves as for a GEMM, but the input is read about once. The
library pads channels to its tile and pays for the gather at each step of the inner dimension; a
1x1 convolution is a plain product. A depthwise convolution has no product at all and runs on the
vector units. A partial one is dense over a slice of the channels, which the library first copies.

References
----------
Chen et al. 2023, Run, Don't Walk: Chasing Higher FLOPS for Faster Neural Networks, arXiv
2303.03667 (partial convolutions: FLOP against achieved FLOP/s).
Asperti et al. 2021, Dissecting FLOPs along Input Dimensions for GreenAI Cost Estimations, arXiv
2107.11949 (alpha-FLOPs).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from attrs import field, frozen

from ... import catalog
from ...provenance import Source
from .gemm import GemmParameters, gemm_time_s
from .shape import DeviceShape

ConvolutionKind = Literal["dense", "depthwise", "partial"]
PARTIAL = 4
"""A partial convolution touches one channel in four (FasterNet's choice)."""
TILES = ((64, 32), (64, 64), (128, 32), (128, 64), (128, 128), (128, 256), (256, 64), (256, 128))
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
CHANNEL_STEP = 64
"""Channels per step of the inner dimension; fewer are padded."""
MIN_SPLIT_DEPTH = 256
PARTIAL_SUM_BYTES = 8.0
JOIN = 3.0
"""Exponent of the p-norm of math and memory time."""


@frozen(kw_only=True)
class ConvolutionParameters:
    """Fitted parameters of convolution kernels.

    Attributes
    ----------
    compute : float
        Share of the dense rate a full tile reaches.
    step : float
        Fewest clocks of one step of the inner dimension (gather latency).
    fixed : float
        Seconds of an empty dense convolution.
    split : float
        Clocks to reduce a split inner dimension.
    memory : float
        Share of peak bandwidth; above 1 where operands are found in the cache.
    tile : float
        Clocks to start and drain one tile.
    store : float
        Bytes per clock at which one unit stores a finished tile.
    slice_fixed : float
        Seconds of copying a slice of the channels, besides its bytes.
    vector : float
        Share of the vector rate of a depthwise convolution.
    vector_fixed : float
        Seconds of an empty depthwise convolution.
    vector_memory : float
        Share of peak bandwidth of a depthwise convolution.
    """

    compute: float
    step: float
    fixed: float
    split: float
    memory: float
    tile: float
    store: float
    slice_fixed: float
    vector: float
    vector_fixed: float
    vector_memory: float


@frozen(kw_only=True)
class SurfaceCorrection:
    """alpha_K(S) = ((S_K + beta (S - S_K)) / S) ** gamma for one kernel width (Asperti et al.).

    S is the surface of the output in pixels, S_K the one at which alpha is 1, between whose ends
    equal FLOP take alpha times the time.
    """

    kernel: int
    surface: float
    beta: float
    gamma: float
    median_error: float

    def alpha(self, surface: float) -> float:
        """Time of a FLOP at `surface` pixels over its time at `self.surface`."""
        mixed = self.surface + self.beta * (surface - self.surface)
        return float((mixed / surface) ** self.gamma)


@frozen(kw_only=True)
class ConvolutionCalibration:
    """Parameters of one family with their errors on shapes, and on a device, never fitted."""

    id: str
    parameters: ConvolutionParameters
    corrections: tuple[SurfaceCorrection, ...]
    rows: int
    median_error: dict[str, float]
    other_device_error: dict[str, float]
    source: str
    sources: dict[str, Source] = field(factory=dict)


def load_convolutions() -> ConvolutionCalibration:
    """The fitted convolution kernels (measured on Hopper; other devices use their own rates)."""
    return catalog.load("calibrations", "convolution-hopper", ConvolutionCalibration, "calibration")


def channels_used(kind: ConvolutionKind, channels: int) -> int:
    """Channels a convolution reads and writes."""
    return max(1, channels // PARTIAL) if kind == "partial" else channels


def convolution_flop(kind: ConvolutionKind, pixels: float, channels: int, kernel: int) -> float:
    """Multiplications and additions of a stride-1 convolution over `pixels` output pixels."""
    used = channels_used(kind, channels)
    return 2.0 * kernel**2 * pixels * used * (1 if kind == "depthwise" else used)


def convolution_bytes(kind: ConvolutionKind, pixels: float, channels: int, kernel: int) -> float:
    """Bytes that must move: input and output once in 16 bits, and the weights."""
    used = channels_used(kind, channels)
    weights = kernel**2 * used * (1 if kind == "depthwise" else used)
    return 2.0 * (2.0 * pixels * used + weights)


def convolution_time_s(
    p: ConvolutionParameters, product: GemmParameters, device: DeviceShape, kind: ConvolutionKind,
    pixels: float, channels: int, kernel: int, *, rate_flop_per_s: float, vector_flop_per_s: float,
) -> float:  # fmt: skip
    """Seconds of one stride-1, same-padded convolution, channels in = channels out.

    Parameters
    ----------
    pixels : float
        Output pixels of all images together.
    channels, kernel : int
        Channels of the tensor; width of the square kernel.
    rate_flop_per_s, vector_flop_per_s : float
        Dense 16-bit matrix rate and vector rate.
    """
    used = channels_used(kind, channels)
    moved = convolution_bytes(kind, pixels, channels, kernel)
    if kind == "depthwise":
        math = convolution_flop(kind, pixels, channels, kernel) / (vector_flop_per_s * p.vector)
        memory = moved / (device.bandwidth_bytes_per_s * p.vector_memory)
        return p.vector_fixed + _joined(math, memory)
    if kernel == 1:
        seconds = float(gemm_time_s(product, device, float(pixels), float(used), float(used),
                                    rate_flop_per_s=rate_flop_per_s, streamed=False))  # fmt: skip
    else:
        math = _math_s(p, device, pixels, used, kernel, rate_flop_per_s)
        memory = moved / (device.bandwidth_bytes_per_s * p.memory)
        seconds = p.fixed + _joined(math, memory)
    if kind == "partial":
        copied = 4.0 * pixels * used / (device.bandwidth_bytes_per_s * p.memory)
        seconds += p.slice_fixed + copied
    return seconds


def _joined(first: float, second: float) -> float:
    low, high = sorted((first, second))
    return high * (1.0 + (low / max(high, 1e-30)) ** JOIN) ** (1.0 / JOIN)


def _math_s(
    p: ConvolutionParameters, device: DeviceShape, pixels: float, channels: int, kernel: int,
    rate_flop_per_s: float,
) -> float:  # fmt: skip
    """Fastest tile and split of the implicit product."""
    tm, tn, splits = (
        np.array(v, float) for v in zip(*((m, n, s) for m, n in TILES for s in SPLITS), strict=True)
    )
    depth = np.ceil(channels / CHANNEL_STEP) * CHANNEL_STEP * kernel**2
    blocks = np.ceil(pixels / tm) * np.ceil(channels / tn) * splits
    unit_rate = rate_flop_per_s * device.reached(p.compute) / device.units
    step = np.maximum(2.0 * tm * tn * CHANNEL_STEP / unit_rate, p.step / device.clock_hz)
    tile = np.ceil(depth / CHANNEL_STEP / splits) * step
    tile = tile + (p.tile + 2.0 * tm * tn / p.store) / device.clock_hz
    cache = max(p.store * device.units * device.clock_hz, device.bandwidth_bytes_per_s)
    reduce = p.split / device.clock_hz + splits * pixels * channels * PARTIAL_SUM_BYTES / cache
    seconds = np.ceil(blocks / device.units) * tile + np.where(splits > 1, reduce, 0.0)
    allowed = (splits == 1) | (depth >= splits * MIN_SPLIT_DEPTH)
    return float(np.where(allowed, seconds, np.inf).min())
