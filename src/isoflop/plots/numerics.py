"""Charts of quantization: error and outliers by layer, bits against error."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from .chart import altair

ROW_PIXELS = 14
PLOT = (480, 320)
"""Width and height of the chart of bits against error, pixels."""
LETTER = (7, 12)
"""Width and line height of the names in it."""
FRONT, BEATEN = "no other beats it", "another beats it"
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
        x=alt.X("depth:O", title="layer", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
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
    exact = min((r[error] for r in rows if r[error] > 0), default=1.0) / 10  # drawn at the foot
    points = [
        {"format": r["format"] + ("" if r[error] > 0 else " (exact)"), "bits": r[bits],
         "error": max(r[error], exact), "beaten": FRONT if r["undominated"] else BEATEN}
        for r in rows
    ]  # fmt: skip
    base = alt.Chart(alt.Data(values=points), title=title, width=PLOT[0], height=PLOT[1]).encode(
        x=alt.X("bits:Q", title="bits per value, scales included", scale=alt.Scale(zero=False)),
        y=alt.Y(
            "error:Q",
            title="relative RMSE",
            scale=alt.Scale(type="log", nice=False, padding=20),
            axis=alt.Axis(tickCount=6),
        ),
        tooltip=["format:N", "bits:Q", "error:Q"],
    )
    front = base.transform_filter(f"datum.beaten == '{FRONT}'")
    layers = [
        front.mark_line(color="gray", strokeDash=[4, 3]),
        base.mark_point(filled=True, size=70).encode(
            color=alt.Color("beaten:N", title=None, sort=[FRONT, BEATEN])
        ),
    ]
    shifts = label_shifts(points)
    for shift in sorted(set(shifts)):
        here = [p for p, s in zip(points, shifts) if s == shift]
        text = base.mark_text(dx=8, dy=shift, align="left", baseline="middle")
        layers.append(text.encode(text="format:N").properties(data=alt.Data(values=here)))
    return alt.layer(*layers)


def label_shifts(points: Sequence[dict[str, Any]]) -> list[int]:
    """Pixels by which each point's name moves down, so that no two names overlap."""
    wide = max(p["bits"] for p in points) - min(p["bits"] for p in points) or 1.0
    heights = [math.log10(p["error"]) for p in points]
    tall = max(heights) - min(heights) or 1.0
    taken: list[tuple[float, float, float]] = []
    shifts = []
    for p, height in zip(points, heights):
        left = p["bits"] / wide * PLOT[0]
        right = left + LETTER[0] * len(p["format"])
        middle = -height / tall * PLOT[1]

        def free(y: float, left: float = left, right: float = right) -> bool:
            return all(
                abs(y - other) >= LETTER[1] or right <= start or left >= end
                for start, end, other in taken
            )

        steps = [sign * LETTER[1] * k for k in range(len(points) + 1) for sign in (1, -1)]
        shift = next((s for s in steps if free(middle + s)), 0)
        taken.append((left, right, middle + shift))
        shifts.append(shift)
    return shifts


def _short(name: str) -> str:
    return name.removesuffix(".weight").removeprefix("model.")


def _place(name: str) -> dict[str, Any]:
    found = re.search(r"\.(\d+)\.", name)
    kind = re.sub(r"^.*?\.\d+\.", "", _short(name)) if found else _short(name)
    return {"depth": int(found.group(1)) if found else 0, "kind": kind}
