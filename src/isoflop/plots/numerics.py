"""Charts of quantization: error and outliers by layer, bits against error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .chart import altair

ROW_PIXELS = 14
MOST_LAYERS = 80
"""Layers of the charts by layer; of larger models those with the largest error."""


def layers_chart(rows: Sequence[dict[str, Any]], title: str) -> Any:
    """Relative error of output and weight by layer, and an outlier map over depth and kind."""
    alt = altair()
    worst = sorted(rows, key=lambda r: -r["relative_output_rmse"])[:MOST_LAYERS]
    names = {r["name"] for r in worst}
    bars = [
        {"layer": _short(r["name"]), "error": r[key], "of": label}
        for r in rows if r["name"] in names
        for key, label in (("relative_output_rmse", "output"), ("relative_rmse", "weight"))
    ]  # fmt: skip
    order = [_short(r["name"]) for r in rows if r["name"] in names]
    error = (
        alt.Chart(alt.Data(values=bars), title=title, width=420, height=ROW_PIXELS * len(order))
        .mark_point(filled=True, size=45)
        .encode(
            x=alt.X("error:Q", title="relative RMSE (share of the signal)"),
            y=alt.Y("layer:N", sort=order, title=None),
            color=alt.Color("of:N", title="error of"),
            tooltip=["layer:N", "of:N", "error:Q"],
        )
    )
    cells = [{**_place(r["name"]), "peak": r["peak_over_rms"], "outliers": r["outliers"]}
             for r in rows]  # fmt: skip
    base = alt.Chart(
        alt.Data(values=cells),
        title="Outliers: largest weight over the RMS of its layer",
        width=420,
    ).encode(
        x=alt.X("depth:O", title="layer"),
        y=alt.Y("kind:N", title=None),
        tooltip=["kind:N", "depth:O", "peak:Q", "outliers:Q"],
    )
    heat = base.mark_rect().encode(color=alt.Color("peak:Q", title="peak / RMS"))
    middle = (max(r["peak"] for r in cells) + min(r["peak"] for r in cells)) / 2.0
    labels = base.mark_text(fontSize=9).encode(
        text=alt.Text("peak:Q", format=".1f"),
        color=alt.condition(f"datum.peak > {middle}", alt.value("white"), alt.value("black")),
    )
    return alt.vconcat(error, heat + labels).resolve_scale(color="independent")


def pareto_chart(
    rows: Sequence[dict[str, Any]], title: str, bits: str = "bits_per_weight",
    error: str = "relative_output_rmse",
) -> Any:  # fmt: skip
    """Bits against error with every format named, and the line of those no other beats."""
    alt = altair()
    points = [
        {"format": r["format"], "bits": r[bits], "error": max(r[error], 1e-12),
         "undominated": bool(r["undominated"])}
        for r in rows
    ]  # fmt: skip
    base = alt.Chart(alt.Data(values=points), title=title, width=480, height=320).encode(
        x=alt.X("bits:Q", title="bits per value, scales included", scale=alt.Scale(zero=False)),
        y=alt.Y(
            "error:Q", title="relative RMSE", scale=alt.Scale(type="log", nice=False, padding=20)
        ),
        tooltip=["format:N", "bits:Q", "error:Q"],
    )
    line = base.transform_filter("datum.undominated").mark_line(color="gray", strokeDash=[4, 3])
    dots = base.mark_point(filled=True, size=70).encode(
        color=alt.Color("undominated:N", title="undominated")
    )
    names = base.mark_text(dx=7, align="left", baseline="middle").encode(text="format:N")
    return line + dots + names


def _short(name: str) -> str:
    return name.removesuffix(".weight").removeprefix("model.")


def _place(name: str) -> dict[str, Any]:
    found = re.search(r"\.(\d+)\.", name)
    kind = re.sub(r"^.*?\.\d+\.", "", _short(name)) if found else _short(name)
    return {"depth": int(found.group(1)) if found else 0, "kind": kind}
