"""Static batching: a batch starts together and its slots free when the last one ends."""

from __future__ import annotations

from typing import ClassVar, final

from ..policy import Policy


@final
class Static(Policy):
    """Request-level scheduling: early ends leave their slots idle.

    References
    ----------
    Yu et al. 2022, Orca, OSDI 2022, section 3: the baseline it replaces.
    """

    title: ClassVar[str] = "a batch starts together and ends together"
    chunked: ClassVar[bool] = False
    mixed: ClassVar[bool] = False
    gang: ClassVar[bool] = True
    limited: ClassVar[bool] = False


POLICY = Static()
