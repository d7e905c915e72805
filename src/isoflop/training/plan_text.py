"""Plans as people write them: `"tp8,pp4,vpp2,mb1,zero1,full"`."""

from __future__ import annotations

import re

from attrs import evolve

from ..errors import InvalidPlan
from .plan import OFFLOAD, PLACEMENTS, RECOMPUTE, SCHEDULES, TrainingPlan

_KEYS = {
    "tp": "tensor", "pp": "pipeline", "dp": "data", "cp": "context", "ep": "expert",
    "etp": "expert_tensor", "mb": "micro_batch", "vpp": "virtual", "zero": "zero",
    "shard": "shard", "full": "full_layers", "offload": "offload_layers", "first": "first",
    "last": "last",
}  # fmt: skip
AWAY = tuple(f"weights={where}" for where in OFFLOAD)


def parse_training_plan(text: str, placement: str = "any") -> TrainingPlan:
    """`"tp8,pp4,vpp2,mb1,zero1,full"` as a plan; a missing dp is filled in by the caller.

    Parameters
    ----------
    placement : {"any", "data-inside", "pipeline-inside"}
        Where ranks lie if a text with a pipeline does not say it.

    Raises
    ------
    InvalidPlan
        If a part is not understood or out of range.
    """
    values: dict[str, object] = {}
    for part in filter(None, re.split(r"[,\s]+", text.strip().lower())):
        match = re.fullmatch(r"([a-z]+)=?(\d{1,6})", part)
        if re.fullmatch(r"layers=\d{1,4}(/\d{1,4})*", part):
            values["layers"] = tuple(int(n) for n in part.removeprefix("layers=").split("/"))
        elif part in AWAY:
            values["offload_weights"] = part.removeprefix("weights=")
        elif part == "sp":
            values["sequence_parallel"] = True
        elif part == "balanced":
            values["balanced"] = True
        elif part in RECOMPUTE:
            values["recompute"] = part
        elif part in SCHEDULES:
            values["schedule"] = part
        elif part in PLACEMENTS:
            values["placement"] = part
        elif match and match.group(1) in _KEYS:
            values[_KEYS[match.group(1)]] = int(match.group(2))
        else:
            raise InvalidPlan(
                f"'{part}' in the plan '{text}' is not understood. Write degrees such as "
                f"{', '.join(f'{k}2' for k in _KEYS)}, layers=8/8/7/7, balanced, sp, weights=cpu "
                f"or weights=nvme, one of "
                f"{', '.join(RECOMPUTE)}, one of {', '.join(SCHEDULES)} and one of "
                f"{', '.join(PLACEMENTS)}."
            )
    if values.get("virtual", 1) != 1 and "schedule" not in values:
        values["schedule"] = "interleaved"
    if placement != "any" and values.get("pipeline", 1) != 1:
        values.setdefault("placement", placement)
    return TrainingPlan(**values)  # type: ignore[arg-type]


def fill_data(plan: TrainingPlan, devices: int) -> TrainingPlan:
    """The plan with its data degree set so that it fills `devices`, if it was left at 1.

    Raises
    ------
    InvalidPlan
        If the plan does not divide the devices.
    """
    if plan.devices == devices:
        return plan
    if plan.data == 1 and devices % plan.devices == 0:
        return evolve(plan, data=devices // plan.devices)
    raise InvalidPlan(
        f"The plan {plan.describe()} takes {plan.devices} devices and the fleet has {devices}. "
        "Choose degrees whose product divides the fleet; leave dp out to fill it."
    )
