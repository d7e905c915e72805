"""The operator graph of a model's training step, for rematerialisation: seconds, bytes and inputs.

Nodes are the kernels of every layer in order, forward and then backward. A backward node reads the
gradients of what read its output, and what its formula needs of the forward pass: products their
inputs, attention its operands and its output, routed experts all they wrote, norms and activations
their inputs (Korthikanti et al. 2022, section 4.1). Gradients of weights go to buffers outside the
graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve, frozen

from ..cost.features import Batch
from ..cost.operators.base import Operator
from ..cost.operators.training import training_operators
from ..cost.timing import linear
from ..hardware import Accelerator
from ..models import LayerGroup, ModelSpec
from ..plans import Plan
from .compute import TrainingTimer
from .moccasin import Graph

READS = {
    "query up projection": ("latent down projection",),
    "key/value up projection": ("latent down projection",),
    "attention (prefill)": ("", "rope and cache write"),
    "router": ("norm",),
    "top-k and permute": ("norm", "router"),
    "shared gate and up projection": ("norm",),
    "shared up projection": ("norm",),
}
"""Operators that do not read their predecessor ("") alone."""


@frozen(kw_only=True)
class LayerGraph:
    """A training step as a graph.

    Attributes
    ----------
    graph : Graph
        Seconds, bytes and inputs of forward nodes and then backward nodes.
    names : tuple of str
        Of the forward nodes.
    cuts : tuple of int
        Forward nodes through which everything later passes: where a chain may be cut.
    """

    graph: Graph
    names: tuple[str, ...]
    cuts: tuple[int, ...]

    @property
    def forward(self) -> int:
        """Number of forward nodes; the backward node of v is 2 forward - 1 - v."""
        return len(self.names)


@frozen(kw_only=True)
class _Node:
    name: str
    seconds: float
    backward_s: float
    size: float
    needs: tuple[int, ...]
    kept: tuple[int, ...]
    gradient: float


def layer_graph(
    model: ModelSpec, device: Accelerator, *, sequence_tokens: int, micro_batch: int = 1
) -> LayerGraph:
    """The graph of one micro-batch of `micro_batch` sequences on one device.

    Parameters
    ----------
    sequence_tokens, micro_batch : int
        Tokens of a sequence, and sequences; at least 1.
    """
    batch = Batch(prefill_sequences=micro_batch, prefill_tokens=sequence_tokens,
                  sampled_rows=np.array(float(micro_batch * sequence_tokens)))  # fmt: skip
    timer = TrainingTimer(device=device, plan=Plan())
    nodes: list[_Node] = []
    ends: Sequence[tuple[Operator, float, float]] = ()
    for group in model.layers:
        ends = _priced(evolve(model, layers=(evolve(group, count=1),)), timer, batch)
        if not nodes:
            _chain(nodes, [x for x in ends if x[0].part == "embedding"], batch)
        for _ in range(group.count):
            _layer(nodes, group, ends, batch)
    _sum(nodes, next(x for x in ends if x[0].name == "residual and norm"), batch)
    last = [x for x in ends if x[0].part == "head" or x[0].name == "final norm"]
    _chain(nodes, last, batch)
    return _with_backward(nodes)


def _priced(
    model: ModelSpec, timer: TrainingTimer, batch: Batch
) -> list[tuple[Operator, float, float]]:
    """Forward operators of a model of one layer, with their seconds forward and backward."""
    ops = training_operators(model, Plan())
    back: dict[str, float] = {}
    for op in (*ops.input_gradient, *ops.weight_gradient):
        name = op.name.split(" (input")[0].split(" (weight")[0].removesuffix(" backward")
        back[name] = back.get(name, 0.0) + float(timer.seconds(op, batch))
    return [(op, float(timer.seconds(op, batch)), back.get(op.name, 0.0)) for op in ops.forward]


def _size(op: Operator, batch: Batch) -> float:
    """Bytes of an output; of the loss, one number per row."""
    if op.name == "cross entropy":
        return 4.0 * float(linear({"rows": 1.0}, batch))
    return float(linear(op.written, batch))


def _chain(nodes: list[_Node], ops: Sequence[tuple[Operator, float, float]], batch: Batch) -> None:
    """Append operators that each read the one before."""
    for op, seconds, backward in ops:
        needs = (len(nodes) - 1,) if nodes else ()
        kept = needs if op.part != "embedding" else ()
        nodes.append(_Node(name=op.name, seconds=seconds, backward_s=backward,
                           size=_size(op, batch), needs=needs, kept=kept,
                           gradient=nodes[-1].size if nodes else 0.0))  # fmt: skip


def _layer(
    nodes: list[_Node], group: LayerGroup, ops: Sequence[tuple[Operator, float, float]],
    batch: Batch,
) -> None:  # fmt: skip
    """Append one layer: each half a residual sum, a norm and its operators."""
    norm = next(x for x in ops if x[0].name == "residual and norm")
    halves = [[x for x in ops if x[0].part == p] for p in ("attention", "feed-forward")]
    halves = [h for h in halves if h]
    if group.parallel:
        halves = [[x for h in halves for x in h]]
    for half in halves:
        stream = _sum(nodes, norm, batch)
        nodes.append(_Node(name="norm", seconds=norm[1] / 2, backward_s=norm[2] / 2,
                           size=nodes[stream].size, needs=(stream,), kept=(stream,),
                           gradient=nodes[stream].size))  # fmt: skip
        place = {"norm": len(nodes) - 1}
        for i, (op, seconds, backward) in enumerate(half):
            before = place["norm"] if i == 0 else len(nodes) - 1
            wanted = READS.get(op.name, ("",))
            if group.parallel and i and op.part != half[i - 1][0].part:
                wanted = ("norm",)
            needs = {place.get(w, before) if w else before for w in wanted}
            at = len(nodes)
            place[op.name] = at
            nodes.append(_Node(
                name=op.name, seconds=seconds, backward_s=backward, size=_size(op, batch),
                needs=tuple(sorted(needs)), kept=_kept(op, needs, at),
                gradient=sum(nodes[u].size for u in needs),
            ))  # fmt: skip


def _kept(op: Operator, needs: set[int], at: int) -> tuple[int, ...]:
    """Forward values an operator's backward pass reads; of experts also what is between them."""
    if op.kind in ("prefill", "mla_prefill", "scan", "moe"):
        return (*sorted(needs), at)
    if op.name.startswith(("rope", "top-k")):
        return ()
    return tuple(sorted(needs))


def _sum(nodes: list[_Node], norm: tuple[Operator, float, float], batch: Batch) -> int:
    """Append the sum of the residual stream and the branches nothing has read yet; its place.

    The kernel that adds also norms, and writes both: half its time and bytes are the sum's.
    """
    start = max((i for i, n in enumerate(nodes) if n.name == "residual"), default=len(nodes) - 1)
    read = {u for n in nodes[start:] for u in n.needs}
    loose = [i for i in range(start + 1, len(nodes)) if i not in read]
    width = _size(norm[0], batch) / 2.0
    nodes.append(_Node(name="residual", seconds=norm[1] / 2, backward_s=norm[2] / 2, size=width,
                       needs=tuple(sorted({start, *loose})), kept=(), gradient=width))  # fmt: skip
    return len(nodes) - 1


def _with_backward(nodes: list[_Node]) -> LayerGraph:
    """Backward nodes in reverse, each reading its readers' gradients and what it keeps."""
    n = len(nodes)
    readers: list[list[int]] = [[] for _ in nodes]
    for v, node in enumerate(nodes):
        for u in node.needs:
            readers[u].append(v)
    needs = [node.needs for node in nodes]
    for v in reversed(range(n)):
        gradients = [2 * n - 1 - w for w in readers[v]] or [n - 1]
        needs.append(tuple(sorted({*gradients, *nodes[v].kept})))
    back = [nodes[v] for v in reversed(range(n))]
    graph = Graph(
        cost=(*(x.seconds for x in nodes), *(x.backward_s for x in back)),
        size=(*(x.size for x in nodes), *(x.gradient for x in back)), needs=tuple(needs),
    )  # fmt: skip
    return LayerGraph(graph=graph, names=tuple(x.name for x in nodes), cuts=_cuts(readers, n))


def _cuts(readers: Sequence[Sequence[int]], n: int) -> tuple[int, ...]:
    """Nodes v such that no node before v is read after v."""
    reach, out = -1, []
    for v in range(n - 1):
        if reach <= v:
            out.append(v)
        reach = max(reach, *readers[v])
    return tuple(out)
