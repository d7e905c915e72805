"""GSPMD: annotations on a few tensors of a layer, propagated, and what they make the network do."""

from __future__ import annotations

from typing import Any, ClassVar, final

from ...errors import InvalidInput
from ..method import NETWORK_SHARE, MethodReport, Setting, TrainingMethod
from ..sharding import Einsum, Mesh, Sharding, propagate

LAYER = (
    Einsum(name="query", inputs=("x", "wq"), equation="bsd,dhk->bshk"),
    Einsum(name="key", inputs=("x", "wk"), equation="btd,dhk->bthk"),
    Einsum(name="scores", inputs=("query", "key"), equation="bshk,bthk->bhst"),
    Einsum(name="value", inputs=("x", "wv"), equation="btd,dhk->bthk"),
    Einsum(name="mixed", inputs=("scores", "value"), equation="bhst,bthk->bshk"),
    Einsum(name="attended", inputs=("mixed", "wo"), equation="bshk,hkd->bsd"),
    Einsum(name="up", inputs=("attended", "w1"), equation="bsd,df->bsf"),
    Einsum(name="down", inputs=("up", "w2"), equation="bsf,fd->bsd"),
)
DIMS = {"x": "bsd", "wq": "dhk", "wk": "dhk", "wv": "dhk", "wo": "hkd", "w1": "df", "w2": "fd"}
ANNOTATIONS: dict[str, dict[str, Sharding]] = {
    "batch only": {"x": {"b": "data"}},
    "batch and heads": {"x": {"b": "data"}, "wq": {"h": "model"}, "w1": {"f": "model"}},
    "finalised 2D": {
        "x": {"b": "data", "d": "model"}, "wq": {"d": "data", "h": "model"},
        "wo": {"h": "model", "d": "data"}, "w1": {"d": "data", "f": "model"},
        "w2": {"f": "model", "d": "data"}, "attended": {"b": "data", "d": "model"},
        "down": {"b": "data", "d": "model"},
    },
}  # fmt: skip
"""Hints of increasing detail; the last is the paper's table 1 (2D finalised): weights split over
both axes, activations over batch and width."""


@final
class Gspmd(TrainingMethod):
    """One dense layer on a two-dimensional mesh under three sets of annotations.

    References
    ----------
    Xu et al. 2021, GSPMD, arXiv 2105.04663.
    """

    title: ClassVar[str] = "sharding annotations propagated through a layer, and their traffic"
    reference: ClassVar[str] = "GSPMD, arXiv 2105.04663"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "data": (8.0, "devices along the data axis"), "model": (8.0, "along the model axis"),
        "batch": (64.0, "sequences of the layer over all devices"),
    }  # fmt: skip

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        mesh = Mesh(axes={"data": round(settings["data"]), "model": round(settings["model"])})
        group = next((g for g in setting.model.layers if g.mixer.heads and g.ffn.inner), None)
        if group is None:
            raise InvalidInput(
                f"{setting.model.name} has no attention layer with a dense feed-forward part; ask "
                "about a transformer such as gpt3-175b."
            )
        sizes = {
            "b": round(settings["batch"]), "s": setting.sequence_tokens,
            "t": setting.sequence_tokens, "d": setting.model.hidden, "h": group.mixer.heads,
            "k": group.mixer.head_dim, "f": group.ffn.inner,
        }  # fmt: skip
        letters = {**DIMS, **{op.name: op.result for op in LAYER}}
        net = setting.network
        speeds = {"model": net.inner_bytes_per_s, "data": net.outer_bytes_per_s}
        records: list[dict[str, Any]] = []
        for name, hints in ANNOTATIONS.items():
            plan = propagate(mesh, DIMS, LAYER, hints)
            moved = {"all_gather": 0.0, "all_to_all": 0.0, "all_reduce": 0.0, "reduce_scatter": 0.0}
            seconds = 0.0
            for move in plan.moves:
                if move.kind == "slice":
                    continue
                n = mesh.axes[move.axis]
                tensor = 2.0 * move.share
                for d in letters[move.tensor]:
                    tensor *= sizes[d]
                sent = tensor * (n - 1) / n * (2.0 if move.kind == "all_reduce" else 1.0)
                moved[move.kind] += sent
                seconds += sent / (speeds[move.axis] * NETWORK_SHARE)
            weights = sum(
                2.0 * _product(sizes, letters[w]) * _split(mesh, plan.shardings[w])
                for w in DIMS if w != "x"
            )  # fmt: skip
            kept = sum(
                2.0 * _product(sizes, op.result) * _split(mesh, plan.shardings[op.name])
                for op in LAYER if op.name != "scores"
            )  # fmt: skip
            records.append({
                "annotations": name, "hints": len(hints), "weight_bytes": weights,
                "activation_bytes": kept, "gathered_bytes": moved["all_gather"],
                "reduced_bytes": moved["all_reduce"] + moved["reduce_scatter"],
                "exchanged_bytes": moved["all_to_all"], "network_s": seconds,
            })  # fmt: skip
        best = min(records, key=lambda r: r["weight_bytes"] + r["activation_bytes"])
        return MethodReport(
            title=f"One layer of {setting.model.name} forward on a {mesh.axes['data']} x "
            f"{mesh.axes['model']} mesh",
            columns=("annotations", "hints", "weight_bytes", "activation_bytes",
                     "gathered_bytes", "reduced_bytes", "exchanged_bytes", "network_s"),
            records=records,
            conclusion=f"'{best['annotations']}' holds least per device; the rest of the layer's "
            f"{len(letters)} tensors follow from its {best['hints']} hints.",
        )  # fmt: skip


def _product(sizes: dict[str, int], letters: str) -> float:
    value = 1.0
    for d in letters:
        value *= sizes[d]
    return value


def _split(mesh: Mesh, sharding: Sharding) -> float:
    value = 1.0
    for axis in sharding.values():
        value /= mesh.axes[axis]
    return value


METHOD = Gspmd()
