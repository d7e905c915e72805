"""`isoflop training limits`: what published runs say fits in memory, and what the planner says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from ..training.limits import Judged, PublishedLimits, Tally

Flag = Annotated[bool, Parameter(negative=())]


def limits(source: str = "", *, verdicts: Flag = False, json: Flag = False) -> None:
    """Published runs that fit or ran out of memory, beside what the planner says of them.

    Parameters
    ----------
    source
        One source, such as alst-2025: each of its verdicts; otherwise all sources, counted.
    verdicts
        Each verdict of every source.
    json
        Print JSON.
    """
    from ..training.limits import find_limits, judge, published_limits, tally
    from ._output import console, print_json

    chosen = [find_limits(source)] if source else list(published_limits())
    judged = {s.id: [judge(limit) for limit in s.limits] for s in chosen}
    tallies = [tally(s.name, judged[s.id]) for s in chosen]
    whole = tally("all", [j for found in judged.values() for j in found])
    if json:
        print_json({
            "sources": [_source_record(s, t, judged[s.id])
                        for s, t in zip(chosen, tallies, strict=True)],
            "all": _tally_record(whole),
        })  # fmt: skip
        return
    if source or verdicts:
        for s in chosen:
            _print_verdicts(s, judged[s.id])
    _print_tallies(tallies if source else [*tallies, whole])
    if not source:
        console().print("`isoflop training limits SOURCE` shows each verdict of one source: "
                        f"{', '.join(s.id for s in chosen)}.")  # fmt: skip


def _tally_record(t: Tally) -> dict[str, Any]:
    return {
        "name": t.name,
        "ran": {"met": t.ran[0], "of": t.ran[1], "textbook_met": t.textbook_ran},
        "failed": {"met": t.failed[0], "of": t.failed[1], "textbook_met": t.textbook_failed},
        "implied": {"met": t.implied[0], "of": t.implied[1], "textbook_met": t.textbook_implied},
        "largest_ratio": t.ratio, "textbook_largest_ratio": t.textbook_ratio,
    }  # fmt: skip


def _source_record(s: PublishedLimits, t: Tally, judged: list[Judged]) -> dict[str, Any]:
    rows = []
    for j in judged:
        limit = j.limit
        common = {"limit": limit.name, "device": limit.device, "devices": limit.devices,
                  "plan": limit.plan, "scale": limit.scale, "source": s.citation(limit),
                  "assumed": limit.assumed, "note": limit.note}  # fmt: skip
        largest = j.predicted if limit.largest else None
        rows += [common | {
            "size": v.size, "published": "fits" if v.ran else "out of memory",
            "implied": v.implied, "predicted": "fits" if v.fits else "out of memory",
            "met": v.met, "place": v.place, "needed_bytes": v.needed_bytes,
            "usable_bytes": v.usable_bytes, "textbook_fits": v.textbook_fits,
            "predicted_largest": largest,
        } for v in j.verdicts]  # fmt: skip
    return {"id": s.id, **_tally_record(t), "verdicts": rows}


def _print_verdicts(s: PublishedLimits, judged: list[Judged]) -> None:
    from ..training.limits import WORDS
    from ..units import show_bytes, show_count
    from ._output import console, table

    rows = []
    for j in judged:
        for v in j.verdicts:
            says = "fits" if v.ran else "fails, implied" if v.implied else "fails"
            needs = f"{show_bytes(v.needed_bytes)} of {show_bytes(v.usable_bytes)}"
            where = "" if v.place == "device" else f" ({v.place})"
            size = f"{show_count(v.size)} {WORDS[j.limit.scale]}"
            rows.append([j.limit.name, size, says, needs + where, "yes" if v.met else "NO"])
    columns = ["run", "size", "published", "needs", "met"]
    console().print(table(s.name, columns, rows, left=2))
    for j in judged:
        if j.limit.largest:
            print(f"{j.limit.name}: the largest is {show_count(max(j.limit.fits))}, predicted "
                  f"{show_count(j.predicted)} {WORDS[j.limit.scale]}.")  # fmt: skip
    for text in dict.fromkeys(s.citation(j.limit) for j in judged):
        print(f"From {text}.")
    for text in dict.fromkeys(t for j in judged for t in (j.limit.assumed, j.limit.note) if t):
        print(f"- {text}")
    print()


def _print_tallies(tallies: list[Tally]) -> None:
    from ._output import console, table

    rows = [
        [t.name, _share(t.ran), _share(t.failed), _share(t.implied), _ratio(t.ratio),
         "/".join(map(str, (t.textbook_ran, t.textbook_failed, t.textbook_implied))),
         _ratio(t.textbook_ratio)]
        for t in tallies
    ]  # fmt: skip
    columns = ["source", "fits", "out of memory", "implied", "largest",
               "16 B/parameter", "its largest"]  # fmt: skip
    console().print(table("Published verdicts met", columns, rows))
    print("implied: twice the largest that ran, or a run without result; largest: median of "
          "predicted over published.")  # fmt: skip


def _share(pair: tuple[int, int]) -> str:
    return f"{pair[0]} of {pair[1]}" if pair[1] else "-"


def _ratio(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if value < 100 else "no limit"
