"""Fair shares between users, by the tokens they use."""

from __future__ import annotations

from typing import ClassVar, final

from ..policy import Policy


@final
class Fair(Policy):
    """Start-time fair queueing over prompt tokens plus twice the output tokens.

    A user's next request starts where the share of the last one ended, so nobody gains by sending
    more at once.

    References
    ----------
    Goyal et al. 1996, Start-time Fair Queueing, SIGCOMM, equations 1 and 2; the token weights
    of Sheng et al. 2023, Fairness in Serving Large Language Models, arXiv 2401.00588, section 4.
    """

    title: ClassVar[str] = "fair token shares between users"
    fair: ClassVar[bool] = True
    first_come: ClassVar[bool] = False


POLICY = Fair()
