"""What a scheduling policy is: how prompts and decoding share steps, and who goes first."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import registry
from .traffic import Trace

PACKAGE = "isoflop.serving.policies"


class Policy:
    """A scheduling policy, one file each in `isoflop/serving/policies/` defining `POLICY`.

    Class attributes
    ----------------
    title : str
        One line for people.
    chunked : bool
        Prompts may be cut to fit the tokens of a step.
    mixed : bool
        Prompts and decoding sequences share a step; otherwise prompts take steps of their own,
        first, and decoding waits.
    gang : bool
        A batch starts together and ends together (static batching).
    limited : bool
        A step holds at most the engine's token budget.
    most_tokens : int
        Cap on the token budget, 0 for none.
    fair : bool
        Order by start-time fair queueing over users instead of by keys.
    first_come : bool
        Keys are arrival times.
    """

    title: ClassVar[str]
    chunked: ClassVar[bool] = True
    mixed: ClassVar[bool] = True
    gang: ClassVar[bool] = False
    limited: ClassVar[bool] = True
    most_tokens: ClassVar[int] = 0
    fair: ClassVar[bool] = False
    first_come: ClassVar[bool] = True

    def keys(self, trace: Trace) -> NDArray[Any]:
        """Order of admission, smaller first, shape (requests,)."""
        return np.asarray(trace.arrival_s, float)


def find_policy(name: str) -> Policy:
    """The policy called `name`; `UnknownName` with suggestions otherwise."""
    return registry.find(PACKAGE, name, "POLICY", "scheduling policy")


def policy_names() -> tuple[str, ...]:
    """Names of every policy."""
    return registry.names(PACKAGE)
