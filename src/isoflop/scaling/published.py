"""Published fits: constants with their source, one TOML each in `data/laws/`."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from .. import catalog
from ..provenance import Source
from .law import Law, find_law

Array = NDArray[Any]
KIND = "laws"
DRAWS = 1000
WIDTH95 = 3.92
"""Standard deviations between the ends of a normal 95% interval."""


@frozen(kw_only=True)
class Check:
    """A value that the constants must give.

    Attributes
    ----------
    inputs : dict of str to float
        What goes in; `budget_flop` asks for the optimum instead.
    name : str
        The output, or an optimal input.
    value, tolerance : float
        Expected value and relative tolerance.
    """

    inputs: dict[str, float]
    name: str = "loss"
    value: float
    tolerance: float = 0.01


@frozen(kw_only=True)
class PublishedLaw:
    """One published fit.

    Attributes
    ----------
    law : str
        Its form.
    convention : str
        How parameters, tokens and loss are counted.
    constants : dict of str to float
    standard_errors : dict of str to float
        Where published.
    low95, high95 : dict of str to float
        Ends of published 95% intervals.
    smallest, largest : dict of str to float
        Range of the inputs it was fitted on.
    correlation : tuple of tuples
        Of the fitted parameters (logarithms of positive ones), in the law's order.
    trust : {"read", "confirmed", "secondary", "refit"}
        Read in the paper or its code; quoted by independent texts alike, or by one and met by
        public runs; quoted by one text; fitted here on public data.
    """

    id: str
    name: str
    law: str
    convention: str
    constants: dict[str, float]
    standard_errors: dict[str, float] = field(factory=dict)
    low95: dict[str, float] = field(factory=dict)
    high95: dict[str, float] = field(factory=dict)
    smallest: dict[str, float] = field(factory=dict)
    largest: dict[str, float] = field(factory=dict)
    correlation: tuple[tuple[float, ...], ...] = ()
    trust: str = "read"
    source: str
    note: str = ""
    aliases: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    sources: dict[str, Source] = field(factory=dict)

    def form(self) -> Law:
        """The law form."""
        return find_law(self.law)

    def theta(self) -> Array:
        """Constants as a parameter vector."""
        return self.form().vector(self.constants)

    def citation(self) -> str:
        """Title and place of the source."""
        s = self.sources[self.source]
        return f"{s.title}, {s.locator} ({s.date})" if s.locator else f"{s.title} ({s.date})"

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Range of each input the fit has seen."""
        return {k: (v, self.largest[k]) for k, v in self.smallest.items() if k in self.largest}

    def draws(self, law: Law) -> Array:
        """Alternatives drawn from the published intervals and the entry's correlation.

        None are drawn where either is missing: taken as independent, the strongly correlated
        constants of a law would make every interval several times too wide.
        """
        named = {p.name for p in law.parameters}
        if set(self.low95) != named or len(self.correlation) != len(named):
            return np.zeros((0, len(law.parameters)))
        rng = np.random.default_rng(0)
        # Rounded correlations need not be positive definite: negative eigenvalues are noise.
        values, vectors = np.linalg.eigh(np.array(self.correlation))
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        normal = rng.standard_normal((DRAWS, len(named))) @ root.T
        columns = []
        for p, z in zip(law.parameters, normal.T):
            value = self.constants[p.name]
            low, high = self.low95[p.name], self.high95[p.name]
            # Positive constants scatter as logarithms: their published errors are skewed.
            if p.log:
                columns.append(value * np.exp(z * np.log(high / low) / WIDTH95))
            else:
                columns.append(value + z * (high - low) / WIDTH95)
        return np.stack(columns, axis=1)

    def evaluate(self, check: Check) -> float:
        """What the constants give for one check."""
        inputs = dict(check.inputs)
        law = self.form()
        budget = inputs.pop("budget_flop", None)
        if budget is None:
            x = {k: np.array([v]) for k, v in inputs.items()}
            return float(law.predict(self.theta(), x)[0])
        found = law.optimum(self.theta(), budget, **inputs)
        return found.prediction if check.name == law.output else found.inputs[check.name]


def load_published(name: str) -> PublishedLaw:
    """The published law called `name`; `UnknownName` with suggestions otherwise."""
    return catalog.load(KIND, name, PublishedLaw, "published law")


def published_names() -> tuple[str, ...]:
    """Ids of every published law."""
    return tuple(catalog.paths(KIND))
