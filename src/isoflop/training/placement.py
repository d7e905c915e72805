"""Where ranks lie: what shares a node under each order of the kinds of parallelism.

Ranks lie closest together in the order tensor, context, data, pipeline ("data-inside", the default
of Megatron-LM, torchtitan and DeepSpeed) or tensor, context, pipeline, data ("pipeline-inside",
Megatron-LM's `--use-tp-pp-dp-mapping`; Llama 3, section 3.3.2). Context ranks outside data ranks
make no third order worth a search: gradients travel over data x context ranks together and tokens
over tensor x context x data, wherever each of them lies, so only keys and values would travel
differently, between ranks further apart, which is never quicker.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..cost.features import Array
from .plan import OPEN, PLACEMENTS, Plans

PIPELINE_INSIDE = PLACEMENTS.index("pipeline-inside")


def differs(
    tensor: Array, context: Array, pipeline: Array, data: Array, node: int, count: int
) -> Array:
    """Where the two orders place ranks differently on `count` devices in nodes of `node`.

    They do not where one of pipeline and data has one rank, where a stage's tensor and context
    ranks fill nodes, or where there is one node.
    """
    both = (pipeline > 1) & (data > 1)
    return both & (tensor * context < node) & (count > node)


def by_placement(plans: Plans, value: Callable[[bool], Array]) -> Array:
    """`value`, given whether stages lie inside nodes, as each plan places them.

    The lesser of the two where a root of a search leaves it open.
    """
    near = plans.placement * (plans.data > 1)
    if not near.any():
        return value(False)
    apart, close = value(False), value(True)
    lesser = np.where(near == OPEN, np.minimum(apart, close), apart)
    return np.where(near == PIPELINE_INSIDE, close, lesser)


def stage_ranks(
    tensor: Array, context: Array, pipeline: Array, node: int, *, near: bool
) -> Array:  # fmt: skip
    """Ranks of one pipeline stage that share a node, at most."""
    inner = tensor * context
    if not near:
        return np.full_like(inner, node)
    return np.minimum(inner * np.maximum(node // (inner * pipeline), 1), node)


def data_stride(plans: Plans, node: int) -> Array:
    """Distance between neighbours of a ring over data and context ranks, as its members per node
    have it."""
    near = (plans.placement == PIPELINE_INSIDE) & (plans.data > 1)
    if not near.any():
        return plans.tensor
    ranks = stage_ranks(plans.tensor, plans.context, plans.pipeline, node, near=True)
    members = np.maximum(ranks // plans.tensor, 1)
    return np.where(near, np.maximum(node // members, 1), plans.tensor)


def owner_stride(plans: Plans, node: int) -> Array:
    """Distance between neighbours of a ring over the ranks that hold the same experts."""
    group = plans.expert * plans.expert_tensor
    near = (plans.placement == PIPELINE_INSIDE) & (plans.data > 1)
    if not near.any():
        return np.minimum(group, node)
    ranks = stage_ranks(plans.tensor, plans.context, plans.pipeline, node, near=True)
    members = np.maximum(ranks // group, 1)
    return np.where(near, node // members, np.minimum(group, node))
