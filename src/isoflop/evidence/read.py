"""Read a measurement file: the schema is recognised from its header."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from ..errors import InvalidInput
from .case import Case
from .serving_rows import SERVING_COLUMNS, serving_case, share_limits
from .silicon_rows import SILICON_COLUMNS, silicon_cases
from .training_rows import (
    SINGLE_NODE_COLUMNS,
    TRAINING_COLUMNS,
    single_node_case,
    training_case,
)

_SCHEMAS: tuple[tuple[str, frozenset[str], Callable[[int, dict[str, str]], list[Case]]], ...] = (
    ("silicon", SILICON_COLUMNS, silicon_cases),
    ("serving", SERVING_COLUMNS, lambda line, row: [serving_case(line, row)]),
    ("training", TRAINING_COLUMNS, lambda line, row: [training_case(line, row)]),
    ("single-node training", SINGLE_NODE_COLUMNS, lambda line, row: [single_node_case(line, row)]),
)


def read_cases(path: Path) -> list[Case]:
    """Every row of a CSV file as one or more cases.

    Raises
    ------
    InvalidInput
        If the file cannot be read, is empty, or has columns of no known schema; the message names
        the missing ones.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            header = set(reader.fieldnames or ())
            if not header:
                raise InvalidInput(f"'{path}' is empty.")
            convert = _schema(path, header)
            cases: list[Case] = []
            for row in reader:
                cases += convert(reader.line_num, {k: (v or "") for k, v in row.items() if k})
    except OSError as error:
        raise InvalidInput(f"'{path}' cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"'{path}' is not a CSV text file: {error}.") from None
    if not cases:
        raise InvalidInput(f"'{path}' has a header but no rows.")
    return share_limits(cases)


def _schema(path: Path, header: set[str]) -> Callable[[int, dict[str, str]], list[Case]]:
    for _, columns, convert in _SCHEMAS:
        if columns <= header:
            return convert
    name, columns, _ = min(_SCHEMAS, key=lambda s: len(s[1] - header))
    raise InvalidInput(
        f"'{path}' has no schema isoflop knows. The nearest is the {name} schema, of which it "
        f"lacks: {', '.join(sorted(columns - header))}."
    )
