"""Where numbers come from: cited sources for facts, labels and intervals for predictions."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

Label = Literal["measured", "interpolated", "analytic"]
"""How a predicted time was made.

measured: the device itself was measured on this operator and the query lies on a measured point;
interpolated: parameters fitted on this device's measurements, query inside their range;
analytic: parameters of the device's family (or of all families), or outside the measured range.
"""

_RANK: dict[Label, int] = {"measured": 0, "interpolated": 1, "analytic": 2}


@frozen(kw_only=True)
class Source:
    """A citable origin of a number.

    Attributes
    ----------
    title : str
        Document or page title.
    locator : str
        Page, table, file or address inside it.
    date : str
        Date of the document, or of reading it, as YYYY, YYYY-MM or YYYY-MM-DD.
    """

    title: str
    locator: str = ""
    date: str = ""


def weakest(labels: list[Label] | tuple[Label, ...]) -> Label:
    """The least trustworthy of several labels; `analytic` for none."""
    worst: Label = "analytic" if not labels else labels[0]
    for label in labels:
        if _RANK[label] > _RANK[worst]:
            worst = label
    return worst
