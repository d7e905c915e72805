"""What the kernel models need to know of a device."""

from __future__ import annotations

from attrs import frozen

from ...hardware import Accelerator

FAMILY_FLOP_PER_CLOCK = {"hopper": 4096.0, "ampere": 2048.0, "ada": 1024.0}
"""Dense 16-bit FLOP per unit and clock of the parts each family's kernels were measured on. Some
products of the same silicon are sold with a quarter (H20) or half of it (RTX 4090, L40)."""

ARRAY_FAMILIES = ("tpu", "gaudi", "trainium", "systolic")
"""Families of a few large matrix arrays, each as much as dozens of a GPU's units."""

ARRAY_ROWS = 16
"""Query rows that an array takes at least: it streams them, with no tile of 64 to fill."""
AMX_ROWS = 16
AMX_GAIN = 8.0
"""A CPU whose 16-bit rate is this many times its fp32 vector rate has matrix units: AMX gains 32,
dot products in vector registers 2 to 4."""


def _units(device: Accelerator, rate: float) -> int:
    """Compute units; a large array counts as so many of the units that the models were fitted on.

    Loads, stores and waves are per unit. Counted as one unit, a TPU's array would load operands at
    one streaming multiprocessor's pace, a twentieth of its memory's bandwidth.
    """
    units = max(1, device.compute.units)
    if device.family not in ARRAY_FAMILIES:
        return units
    each = FAMILY_FLOP_PER_CLOCK["hopper"] * device.compute.clock_hz
    return max(units, round(rate / each))


def _pad_rows(device: Accelerator) -> int:
    rates = device.rates.dense_flop_per_s
    if device.family in ARRAY_FAMILIES:
        return ARRAY_ROWS
    if device.kind != "cpu":
        # Products at the vector rate: no matrix units, so decoding does dot products (Apple).
        return int(0.0 < rates.get("fp16", 0.0) <= device.rates.vector_flop_per_s)
    tiles = rates.get("bf16", 0.0) >= AMX_GAIN * rates.get("fp32", float("inf"))
    return AMX_ROWS if tiles else 1


@frozen(kw_only=True)
class DeviceShape:
    """Datasheet figures in the form the kernel models use.

    Attributes
    ----------
    units : int
        Streaming multiprocessors or their counterpart; pieces of their size of a large array.
    bandwidth_bytes_per_s, cache_bytes : float
        Device memory bandwidth and last-level cache.
    bf16_flop_per_s : float
        Dense 16-bit rate: attention and 16-bit GEMMs run at it.
    clock_hz : float
        Clock at which units count the cycles of loads, stores and synchronisation.
    rate_cut : float
        Matrix rate per unit and clock over that of the family's measured parts, at most 1.
    pad_rows : int
        Query heads of decoding attention are padded to a multiple of this: 16 on a CPU with tile
        registers (AMX), 1 where vector units do dot products (other CPUs, Apple's GPUs). 0: the
        library's tiles.
    """

    units: int
    bandwidth_bytes_per_s: float
    cache_bytes: float
    bf16_flop_per_s: float
    clock_hz: float
    rate_cut: float = 1.0
    pad_rows: int = 0

    @classmethod
    def of(cls, device: Accelerator) -> DeviceShape:
        """The shape of a catalog entry; a device without 16-bit units uses its widest rate."""
        rates = device.rates.dense_flop_per_s
        rate = next((rates[f] for f in ("bf16", "fp16", "fp32") if f in rates), 0.0)
        rate = rate or max(rates.values())
        units, clock = _units(device, rate), device.compute.clock_hz
        native = FAMILY_FLOP_PER_CLOCK.get(device.family, 0.0) * units * clock
        return cls(
            units=units,
            bandwidth_bytes_per_s=device.memory.bandwidth_bytes_per_s,
            cache_bytes=device.memory.cache_bytes,
            bf16_flop_per_s=rate,
            clock_hz=clock,
            rate_cut=min(1.0, rate / native) if native else 1.0,
            pad_rows=_pad_rows(device),
        )

    def reached(self, share: float) -> float:
        """Share of this device's matrix rate a full tile reaches; `share` is the family's fit.

        What keeps a tile from the full rate (loads, synchronisation, power) takes clocks of its
        own, which weigh less where the matrix units themselves are slower: 1 / (1 + cut (1/share
        - 1)).
        """
        return 1.0 / (1.0 + self.rate_cut * (1.0 / share - 1.0))

    def resident(self, moved_bytes, share: float):
        """Share of `moved_bytes` a repeated kernel finds in the last-level cache.

        Everything while it fills less than half of `share` of the cache, nothing from one and a
        half on. Only microbenchmarks repeat the same operands; an engine streams all layers.
        """
        import numpy as np

        if self.cache_bytes <= 0 or share <= 0:
            return np.zeros(np.shape(moved_bytes))
        return np.clip(1.5 - np.asarray(moved_bytes) / (share * self.cache_bytes), 0.0, 1.0)
