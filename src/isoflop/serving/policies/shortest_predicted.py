"""Shortest predicted job first, for engines with a length predictor."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from ..policy import Policy
from ..traffic import Trace


@final
class ShortestPredicted(Policy):
    """Order by predicted output length, the true one where the trace has no prediction.

    References
    ----------
    Fu et al. 2024, Efficient LLM Scheduling by Learning to Rank, arXiv 2408.15792.
    """

    title: ClassVar[str] = "shortest predicted output first"
    first_come: ClassVar[bool] = False

    def keys(self, trace: Trace) -> NDArray[Any]:
        predicted = trace.predicted_output
        return np.asarray(trace.output_tokens if predicted is None else predicted, float)


POLICY = ShortestPredicted()
