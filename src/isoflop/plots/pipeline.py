"""The chart of `isoflop training schedules`: one bar per task, one row per stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .chart import altair

if TYPE_CHECKING:
    from ..training.schedule import Timeline

KINDS = {"F": "forward", "B": "backward", "W": "weight gradient"}
COLORS = {"forward": "#1b6ca8", "backward": "#d95f02", "weight gradient": "#66a61e"}


def chart(lines: dict[str, Timeline]) -> Any:
    """One panel per schedule on a common time axis."""
    alt = altair()
    end = max(line.total_s for line in lines.values())
    panels = []
    for name, line in lines.items():
        rows = [{"stage": s.stage, "kind": KINDS[s.task.kind], "from": s.start_s, "to": s.end_s}
                for s in line.slots]  # fmt: skip
        panels.append(
            alt.Chart(alt.Data(values=rows))
            .mark_bar(stroke="white", strokeWidth=0.5)
            .encode(
                x=alt.X("from:Q", title="seconds", scale=alt.Scale(domain=[0, end])),
                x2="to:Q",
                y=alt.Y("stage:O", title="stage"),
                color=alt.Color("kind:N", title=None, scale=alt.Scale(
                    domain=list(COLORS), range=list(COLORS.values()))),
            )
            .properties(width=640, height=90, title=f"{name}: bubble {line.bubble:.1%}")
        )  # fmt: skip
    return alt.vconcat(*panels)
