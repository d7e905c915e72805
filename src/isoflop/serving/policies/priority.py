"""Priorities given by the trace."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from ..policy import Policy
from ..traffic import Trace


@final
class Priority(Policy):
    """Smaller priority values first; the largest are preempted first (vLLM's priority policy)."""

    title: ClassVar[str] = "by the trace's priority column, smaller first"
    first_come: ClassVar[bool] = False

    def keys(self, trace: Trace) -> NDArray[Any]:
        return np.asarray(trace.priority, float)


POLICY = Priority()
