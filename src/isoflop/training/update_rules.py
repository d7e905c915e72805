"""Update rules of optimizers as what they cost per parameter."""

from __future__ import annotations

from attrs import frozen

from ..hardware import Accelerator
from .update import perceptron_flop


@frozen(kw_only=True)
class UpdateRule:
    """Per parameter: FLOP, bytes of state, bytes moved per update."""

    name: str
    flop: float
    state_bytes: float
    moved_bytes: float


SGD_MOMENTUM = UpdateRule(name="SGD, momentum", flop=4, state_bytes=4, moved_bytes=20)
ADAM = UpdateRule(name="Adam", flop=14, state_bytes=8, moved_bytes=28)


def perceptron_rule(name: str, features: int, hidden: int, layers: int, state: int) -> UpdateRule:
    """A learned rule that runs a small network per parameter.

    Products of `layers` hidden layers of width `hidden` on `features` inputs with two outputs
    (direction and magnitude); `state` fp32 accumulators per parameter, read and written.
    """
    # Features are normalised over the tensor: a pass to make them and one to use them.
    return UpdateRule(name=name, flop=perceptron_flop(features, hidden, layers),
                      state_bytes=4.0 * state,
                      moved_bytes=8.0 * state + 4.0 * features + 12.0)  # fmt: skip


def update_cost(
    rule: UpdateRule, parameters: float, device: Accelerator, vector_share: float,
    memory_share: float,
) -> tuple[float, str]:  # fmt: skip
    """Seconds of one update at shares of the vector rate and of memory, and which of them bounds.

    Parameters
    ----------
    vector_share, memory_share : float
        Above 0, at most 1.
    """
    arithmetic = parameters * rule.flop / (vector_share * device.rates.vector_flop_per_s)
    memory = parameters * rule.moved_bytes / (memory_share * device.memory.bandwidth_bytes_per_s)
    return max(arithmetic, memory), "compute" if arithmetic > memory else "memory"
