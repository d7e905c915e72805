"""`isoflop training recompute`: which activations to compute again, for a chain or a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ._options import Count

if TYPE_CHECKING:
    from ..training.moccasin import Graph

Flag = Annotated[bool, Parameter(negative=())]
EXACT_LAYERS = 80
"""Layers up to which a chain's optimum is worked out; its time grows with their fourth power."""
WHOLE_NODES = 100
"""Nodes up to which one constraint model holds the whole graph."""


def recompute(
    *,
    model: str = "",
    on: str = "h100-sxm",
    sequence: Count = 4096,
    micro_batch: int = 1,
    layers: int = 64,
    budget: float = 0.25,
    solver: Flag = False,
    seconds: float = 30.0,
    json: Flag = False,
) -> None:
    """Recomputation plans: sqrt(n) segments, recursion, the optimum of a chain, Moccasin.

    Without a model, of a chain of equal layers; with one, of its own operator graph, priced in
    seconds on a device.

    Parameters
    ----------
    model
        Catalog id or alias, or a Hugging Face config.json.
    on
        Device whose kernels price the model's operators.
    sequence
        Tokens of a sequence.
    micro_batch
        Sequences of a micro-batch.
    layers
        Layers of the chain.
    budget
        Memory as a share of what storing everything needs.
    solver
        Also search the forward and backward graph by constraint programming (needs OR-tools):
        whole up to 100 nodes, beyond by eviction and windows, with a lower bound.
    seconds
        Time limit of the solver.
    json
        Print JSON.
    """
    from ..errors import InvalidInput

    if layers < 2 or not 0 < budget <= 1:
        raise InvalidInput("Give at least two layers, and a budget above 0 and at most 1.")
    if not 0 < seconds < float("inf"):
        raise InvalidInput(f"The time limit is {seconds} s; it must be a positive number.")
    if model:
        _of_model(model, on, sequence, micro_batch, budget, seconds if solver else 0.0, json)
    else:
        _of_chain(layers, budget, seconds if solver else 0.0, json)


def _of_chain(layers: int, budget: float, seconds: float, json: bool) -> None:
    """Plans of a chain of equal layers, in forward passes and outputs held."""
    from ..training.moccasin import training_chain
    from ..training.rematerialise import Layer, optimal, recursive, segments, store_all
    from ._output import console, print_json, table

    chain = [Layer(forward=1.0, size=1.0)] * layers
    room = float(max(2, round(budget * layers)))
    plans = {
        "store all": store_all(chain), "sqrt(n) segments": segments(chain),
        "recursion by halves": recursive(chain),
    }  # fmt: skip
    if layers <= EXACT_LAYERS:
        plans[f"optimum within {room:.0f}"] = optimal(chain, room, levels=int(room))
    rows = [{"plan": k, "forward_passes": p.forward / layers, "peak_outputs": p.peak}
            for k, p in plans.items()]  # fmt: skip
    if seconds:
        graph = training_chain([1.0] * layers, [1.0] * layers)
        rows += [
            {"plan": r["plan"], "forward_passes": 1.0 + r["extra"] / layers,
             "peak_outputs": r["peak"]}
            for r in _solved(graph, budget, seconds)
        ]  # fmt: skip
    if json:
        print_json(rows)
        return
    shown = [
        [r["plan"], f"{r['forward_passes']:.4g}",
         "-" if r["peak_outputs"] is None else f"{r['peak_outputs']:.4g}"] for r in rows
    ]  # fmt: skip
    console().print(table(f"{layers} layers", ["plan", "forward passes", "outputs held"], shown))
    if layers > EXACT_LAYERS:
        console().print(f"The optimum of a chain is worked out up to {EXACT_LAYERS} layers.")


def _solved(graph: Graph, budget: float, seconds: float) -> list[dict[str, Any]]:
    """What constraint programming finds: extra cost and peak, and the bound below it."""
    from ..training.moccasin import keep_everything, solve
    from ..training.neighbourhood import search

    plain = keep_everything(graph)
    if len(graph.cost) <= WHOLE_NODES:
        found = solve(graph, plain.peak * budget, seconds=seconds)
        proof = "proven" if found.proven else "best found"
        return [{"plan": f"Moccasin on forward and backward, {proof}",
                 "extra": found.cost - plain.cost, "peak": found.peak}]  # fmt: skip
    near = search(graph, plain.peak * budget, seconds=seconds)
    end = "proven" if near.schedule.proven else f"{near.windows} windows"
    return [
        {"plan": f"Moccasin by eviction and windows, {end}",
         "extra": near.schedule.cost - plain.cost, "peak": near.schedule.peak},
        {"plan": "no schedule costs less than", "extra": near.bound - plain.cost, "peak": None},
    ]  # fmt: skip


def _of_model(
    name: str, on: str, sequence: int, micro_batch: int, budget: float, seconds: float, json: bool
) -> None:
    """Plans of a model's own graph, in seconds and bytes of one micro-batch."""
    from ..errors import InvalidInput
    from ..hardware import load_fleet
    from ..models import load_asked
    from ..training.graph_plans import recursive, sublinear
    from ..training.layer_graph import layer_graph
    from ..training.moccasin import keep_everything
    from ..units import show_bytes, show_s
    from ._output import console, print_json, table

    spec = load_asked(name)
    if not 1 <= sequence <= 1 << 24 or not 1 <= micro_batch <= 1 << 16:
        raise InvalidInput(
            f"A micro-batch has 1 to 65,536 sequences of 1 to 16,777,216 tokens, not {micro_batch} "
            f"of {sequence}."
        )
    device = load_fleet(on)[0]
    step = layer_graph(spec, device, sequence_tokens=sequence, micro_batch=micro_batch)
    plain = keep_everything(step.graph)
    plans = {"store all": plain, "sqrt(n) segments": sublinear(step),
             "recursion by halves": recursive(step)}  # fmt: skip
    rows: list[dict[str, Any]] = [
        {"plan": k, "seconds": p.cost, "peak_bytes": p.peak} for k, p in plans.items()
    ]
    if seconds:
        rows += [{"plan": r["plan"], "seconds": plain.cost + r["extra"], "peak_bytes": r["peak"]}
                 for r in _solved(step.graph, budget, seconds)]  # fmt: skip
    if json:
        print_json({"model": spec.id, "device": device.id, "nodes": len(step.graph.cost),
                    "cuts": len(step.cuts), "rows": rows})  # fmt: skip
        return
    shown = [
        [r["plan"], show_s(r["seconds"]), f"{r['seconds'] / plain.cost - 1:+.1%}",
         "-" if r["peak_bytes"] is None else show_bytes(r["peak_bytes"])] for r in rows
    ]  # fmt: skip
    title = (
        f"{spec.name} on {device.name}: {len(step.graph.cost)} operators forward and backward, "
        f"{micro_batch} x {sequence} tokens"
    )
    columns = ["plan", "kernel time", "", "activations and gradients at most"]
    console().print(table(title, columns, shown))
