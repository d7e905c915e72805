"""How every command prints: tables for people, JSON for programs, files written whole or not."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InvalidInput


def print_json(value: Any) -> None:
    """Print a value as JSON, with NaN and infinity as null (JSON has neither)."""
    json.dump(_jsonable(value), sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    if hasattr(value, "tolist"):
        return _jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_whole(path: str | Path, data: bytes | str) -> None:
    """Write a file aside and rename it, so that a failure leaves nothing half-written.

    Raises
    ------
    InvalidInput
        If the folder does not exist or cannot be written.
    """
    target = Path(path)
    payload = data.encode() if isinstance(data, str) else data
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise InvalidInput(
            f"'{target}' cannot be written: {error.strerror}. Choose a folder that exists."
        ) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise InvalidInput(f"'{target}' cannot be written: {error.strerror}.") from None


def check_chart(path: Path | None) -> None:
    """Refuse a chart that could not be written, before the work that it would show."""
    if path is not None:
        from ..plots.chart import writable

        writable(path)


def write_chart(chart: Any, path: Path, *, quiet: bool = False) -> None:
    """Write a chart as .svg, .png or .html, and say so where the screen holds no JSON."""
    from ..plots.chart import save

    save(chart, path)
    if not quiet:
        print(f"Chart written to {path}.")


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    """Write equal-keyed records as .csv or .json.

    Raises
    ------
    InvalidInput
        If the file's name ends in something else, or it cannot be written.
    """
    import csv
    import io

    if path.suffix == ".json":
        write_whole(path, json.dumps(_jsonable(records), indent=1))
        return
    if path.suffix != ".csv":
        raise InvalidInput(f"'{path}' is neither .csv nor .json. Name the file so.")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    write_whole(path, text.getvalue())


def console() -> Any:
    """A rich console that keeps the width sane when output is not a terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 110
    return Console(width=width, highlight=False, soft_wrap=False)


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: int = 1,
    wrap: bool = False,
) -> Any:
    """A plain rich table: the first `left` columns left-aligned, the rest right-aligned.

    Too wide a table breaks the heads of its columns, then wraps its left columns, names of things,
    and with `wrap` the last one. Numbers are never cut.
    """
    from rich import box
    from rich.table import Table

    rows = [list(row) for row in rows]
    columns = _narrowed(columns, rows, console().width)
    result = Table(
        title=title or None,
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for i, name in enumerate(columns):
        last = wrap and i == len(columns) - 1
        free = i < left or last
        result.add_column(name, justify="left" if i < left else "right", no_wrap=not free,
                          overflow="fold")  # fmt: skip
    for row in rows:
        result.add_row(*row)
    return result


def _narrowed(columns: Sequence[str], rows: list[list[str]], width: int) -> list[str]:
    """The heads, broken at spaces where the table would be wider than the screen."""
    cells = [max((len(row[i]) for row in rows), default=0) for i in range(len(columns))]
    whole = sum(max(len(name), cell) + 3 for name, cell in zip(columns, cells))
    if whole <= width:
        return list(columns)
    return [
        name.replace(" ", "\n") if len(name) > cell else name for name, cell in zip(columns, cells)
    ]


@contextmanager
def progress_bar(what: str, wanted: bool) -> Iterator[Callable[[float], None] | None]:
    """A bar on the error stream that is told the share done; None where nobody would see it."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share: bar.update(task, completed=share)
