"""What a searcher is: it proposes the next configuration from those tried."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import registry
from ..cost.features import Array
from ..errors import MissingExtra

if TYPE_CHECKING:
    from .space import Space
    from .trial import Trial

PACKAGE = "isoflop.tuning.searchers"


class Searcher(ABC):
    """A search rule, one file each in `isoflop/tuning/searchers/` defining `SEARCHER`."""

    title: ClassVar[str]
    reference: ClassVar[str]
    constrained: ClassVar[bool] = False
    """Whether it looks at constraints."""

    @abstractmethod
    def propose(self, trials: Sequence[Trial], space: Space, rng: np.random.Generator) -> Array:
        """The next point of the unit cube."""


def find_searcher(name: str) -> Searcher:
    """The searcher called `name`; `UnknownName` with suggestions otherwise."""
    return registry.find(PACKAGE, name, "SEARCHER", "searcher")


def searcher_names() -> tuple[str, ...]:
    """Names of every searcher."""
    return registry.names(PACKAGE)


def gaussian_process(points: Array, values: Array) -> Any:
    """A Gaussian process on standardised values: Matern 5/2 with a scale per setting, and noise.

    Raises
    ------
    MissingExtra
        Without scikit-learn.
    """
    try:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
    except ImportError:
        raise MissingExtra("Bayesian search", "tune") from None
    import warnings

    kernel = ConstantKernel(1.0, (0.05, 20.0)) * Matern(
        np.full(points.shape[1], 0.5),  # type: ignore[arg-type]  # one scale per setting
        (0.05, 20.0),
        nu=2.5,
    ) + WhiteKernel(1e-2, (1e-6, 0.5))
    model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scales at their bounds are expected of idle settings
        model.fit(points, values)
    return model
