"""How much of a long run is useful time: failures, checkpoints and restarts in closed form.

With failures of rate r per device-hour, n devices fail every M = 1 / (r n) on average. Writing a
checkpoint takes d seconds; the interval that loses least is sqrt(2 d M) (Young 1974; Daly 2006,
first order), and the useful share of time is

    1 - d / tau - (tau / 2 + R) / M

with restart time R: what was written, lost and waited for.
"""

from __future__ import annotations

import math

from attrs import frozen

FAILURES_PER_DEVICE_HOUR = 419 / (54 * 24 * 16384)
"""Unexpected interruptions of Llama 3 405B: 419 in 54 days on 16,384 H100 (Grattafiori et al. 2024,
table 5)."""
RESTART_S = 600.0
"""Detection, rescheduling, loading and warm-up after a failure; estimate."""
STORAGE_BYTES_PER_S_PER_DEVICE = 2e12 / 16384
"""Sustained 2 TB/s of the storage behind the same cluster (section 3.3.1 there), per device."""
CHECKPOINT_BYTES_PER_PARAMETER = 14.0
"""16-bit weights, fp32 master weights and two fp32 moments."""


@frozen(kw_only=True)
class Goodput:
    """Useful share of a run's time and what it follows from.

    Attributes
    ----------
    useful : float
        Share of wall-clock time, 0 to 1.
    interval_s, checkpoint_s, between_failures_s : float
    """

    useful: float
    interval_s: float
    checkpoint_s: float
    between_failures_s: float


def goodput(
    devices: int, parameters: float, *, rate_per_device_hour: float = FAILURES_PER_DEVICE_HOUR,
    restart_s: float = RESTART_S,
) -> Goodput:  # fmt: skip
    """Goodput of a run on `devices`, at the checkpoint interval that loses least."""
    between = 3600.0 / (rate_per_device_hour * devices)
    write = parameters * CHECKPOINT_BYTES_PER_PARAMETER / (devices * STORAGE_BYTES_PER_S_PER_DEVICE)
    interval = math.sqrt(2.0 * write * between)
    lost = write / interval + (interval / 2.0 + restart_s) / between
    return Goodput(
        useful=max(0.0, 1.0 - lost), interval_s=interval, checkpoint_s=write,
        between_failures_s=between,
    )  # fmt: skip
