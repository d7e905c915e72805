"""Pipeline diagrams: one bar per task, one row per stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .chart import altair

if TYPE_CHECKING:
    from ..training.schedule import Slot, Timeline

KINDS = {"F": "forward", "B": "backward", "W": "weight gradient"}
COLORS = {
    "forward": "#1b6ca8", "backward": "#d95f02", "weight gradient": "#66a61e",
    "forward, other direction": "#8fbde0", "backward, other direction": "#f6b26b",
    "weight gradient, other direction": "#b8dc8c",
}  # fmt: skip
MOST_STAGES = 16


def chart(lines: dict[str, Timeline]) -> Any:
    """One panel per schedule on a common time axis."""
    alt = altair()
    end = max(line.total_s for line in lines.values())
    return alt.vconcat(*(
        panel(line, f"{name}: bubble {line.bubble:.1%}", end) for name, line in lines.items()
    ))  # fmt: skip


def panel(line: Timeline, title: str, end_s: float, width: int = 640) -> Any:
    """One schedule; of many stages, evenly chosen ones."""
    alt = altair()
    stages = 1 + max(s.stage for s in line.slots)
    step = max(1, -(-stages // MOST_STAGES))
    shown = [s for s in range(stages) if s % step == 0 or s == stages - 1]
    rows = _rows([s for s in line.slots if s.stage in shown])
    kinds = [k for k in COLORS if any(r["kind"] == k for r in rows)]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_bar(stroke="white", strokeWidth=0.5 if len(rows) < 1500 else 0.0)
        .encode(
            x=alt.X("from:Q", title="seconds", scale=alt.Scale(domain=[0, end_s])),
            x2="to:Q",
            y=alt.Y("stage:O", title="stage"),
            color=alt.Color("kind:N", title=None, scale=alt.Scale(
                domain=kinds, range=[COLORS[k] for k in kinds])),
        )
        .properties(width=width, height=max(40, 22 * len(shown)), title=title)
    )  # fmt: skip


def _rows(slots: list[Slot]) -> list[dict[str, Any]]:
    """Bars; of a forward and a backward beside each other, one half of the time each."""
    pairs: dict[tuple[int, float, float], int] = {}
    for s in slots:
        key = s.stage, s.start_s, s.end_s
        pairs[key] = pairs.get(key, 0) + 1
    rows = []
    for s in slots:
        start, end = s.start_s, s.end_s
        if pairs[s.stage, start, end] > 1:
            middle = (start + end) / 2
            start, end = (start, middle) if s.task.kind == "F" else (middle, end)
        kind = KINDS[s.task.kind] + (", other direction" if s.task.direction else "")
        rows.append({"stage": s.stage, "kind": kind, "from": start, "to": end})
    return rows
