"""Writing charts: SVG, PNG or one self-contained HTML page, all from one specification."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from ..errors import InvalidInput, MissingExtra

SUFFIXES = (".svg", ".png", ".html")


def altair() -> Any:
    """The altair module, or a sentence on how to install it."""
    try:
        import altair as alt
    except ImportError:
        raise MissingExtra("Drawing charts", "plot") from None
    return alt


def writable(path: Path) -> None:
    """Raise `InvalidInput` for a path that no chart can be written to.

    Its suffix is one of .svg, .png, .html and its folder exists.
    """
    if path.suffix not in SUFFIXES:
        raise InvalidInput(
            f"'{path}' does not end in one of {', '.join(SUFFIXES)}; the suffix chooses the format."
        )
    if not path.parent.is_dir():
        raise InvalidInput(f"The folder '{path.parent}' does not exist; create it first.")


def save(chart: Any, path: Path) -> None:
    """Write `chart` to `path`, whole or not at all.

    Raises
    ------
    InvalidInput
        If `path` is not one that a chart can be written to; see `writable`.
    """
    writable(path)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=".chart-", suffix=path.suffix)
    os.close(handle)
    try:
        options: dict[str, Any] = {"inline": True} if path.suffix == ".html" else {}
        if path.suffix == ".png":
            options["scale_factor"] = 2
        chart.save(aside, **options)
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException as error:
        Path(aside).unlink(missing_ok=True)
        if isinstance(error, ImportError):
            raise MissingExtra("Writing charts", "plot") from None
        raise
