"""Published figures in the project's own catalog, each with its source."""

from __future__ import annotations

from attrs import field, frozen

from .. import catalog
from ..provenance import Source
from .case import Case
from .serving_rows import serving_case

KIND = "measurements"


@frozen(kw_only=True)
class Figure:
    """One published figure, in the words of the serving schema."""

    engine: str
    engine_version: str = ""
    model: str
    precision: str
    gpu: str
    n_gpus: int = 1
    tp: int = 1
    pp: int = 1
    ep: int = 1
    input_len: int = 0
    output_len: int = 0
    batch: str = "1"
    metric: str
    value: float
    note: str = ""


@frozen(kw_only=True)
class Measurements:
    """Figures of one source; `validate` tells those an engine was fitted on (role fit) apart."""

    id: str
    name: str
    figures: tuple[Figure, ...]
    source: str
    sources: dict[str, Source] = field(factory=dict)


def published_cases() -> list[Case]:
    """Every published figure of the catalog as a case."""
    cases = []
    for entry in catalog.load_all(KIND, Measurements):
        for i, f in enumerate(entry.figures):
            row = {
                "source": entry.name.replace(" ", "-"), "engine": f.engine,
                "engine_version": f.engine_version, "model": f.model,
                "precision": f.precision, "gpu": f.gpu, "n_gpus": str(f.n_gpus), "tp": str(f.tp),
                "pp": str(f.pp), "ep": str(f.ep), "input_len": str(f.input_len),
                "output_len": str(f.output_len), "batch_or_concurrency": f.batch,
                "metric": f.metric, "value": str(f.value), "note": f.note,
            }  # fmt: skip
            cases.append(serving_case(i + 1, row))
    return cases
