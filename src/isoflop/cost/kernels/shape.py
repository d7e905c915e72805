"""What the kernel models need to know of a device."""

from __future__ import annotations

from attrs import frozen

from ...hardware import Accelerator


@frozen(kw_only=True)
class DeviceShape:
    """Datasheet figures in the form the kernel models use.

    Attributes
    ----------
    units : int
        Streaming multiprocessors or their counterpart.
    bandwidth_bytes_per_s, cache_bytes : float
        Device memory bandwidth and last-level cache.
    bf16_flop_per_s : float
        Dense 16-bit rate: attention and 16-bit GEMMs run at it.
    clock_hz : float
        Clock at which units count the cycles of loads, stores and synchronisation.
    """

    units: int
    bandwidth_bytes_per_s: float
    cache_bytes: float
    bf16_flop_per_s: float
    clock_hz: float

    @classmethod
    def of(cls, device: Accelerator) -> DeviceShape:
        """The shape of a catalog entry; a device without 16-bit units uses its widest rate."""
        rates = device.rates.dense_flop_per_s
        rate = next((rates[f] for f in ("bf16", "fp16", "fp32") if f in rates), 0.0)
        return cls(
            units=max(1, device.compute.units),
            bandwidth_bytes_per_s=device.memory.bandwidth_bytes_per_s,
            cache_bytes=device.memory.cache_bytes,
            bf16_flop_per_s=rate or max(rates.values()),
            clock_hz=device.compute.clock_hz,
        )

    def resident(self, moved_bytes, share: float):
        """Share of `moved_bytes` a repeated kernel finds in the last-level cache.

        Everything while it fills less than half of `share` of the cache, nothing from one and a
        half on. Only microbenchmarks repeat the same operands; an engine streams all layers.
        """
        import numpy as np

        if self.cache_bytes <= 0 or share <= 0:
            return np.zeros(np.shape(moved_bytes))
        return np.clip(1.5 - np.asarray(moved_bytes) / (share * self.cache_bytes), 0.0, 1.0)
