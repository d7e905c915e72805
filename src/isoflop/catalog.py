"""Catalogs: one TOML file per entry, file name = id, every numeric table sourced.

`structure` turns a TOML table into a frozen attrs class. An attribute whose name ends in a unit
suffix (`bandwidth_bytes_per_s`) is written in TOML without it (`bandwidth = "3.35 TB/s"`) and is
parsed and dimension-checked once. Unknown keys are errors and all problems of a file are
reported together.

User folders overlay the built-in ones: every folder in `ISOFLOP_CATALOG` (separated like PATH)
holds the same sub-folders (`accelerators/`, `models/`, ...), and its entries win.
"""

from __future__ import annotations

import os
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import attrs

from . import units
from .errors import CatalogError, IsoflopError, UnitError, UnknownName
from .provenance import Source

T = TypeVar("T")

BUILTIN = Path(__file__).parent / "data"
_BUILTIN_ROOT = str(BUILTIN)
ENV_VARIABLE = "ISOFLOP_CATALOG"


Stamp = tuple[tuple[str, int], ...]
"""The folders of one kind, user overlays first, each with the time of its last change."""


def paths(kind: str) -> dict[str, Path]:
    """Every entry of `kind`: id -> file, sorted by id, user overlays winning."""
    return _listing(_stamp(kind))


def _stamp(kind: str) -> Stamp:
    """Looked at again by every question, so that a changed folder is read again."""
    found = []
    for root in [*os.environ.get(ENV_VARIABLE, "").split(os.pathsep), _BUILTIN_ROOT]:
        folder = os.path.join(root, kind)
        if root and os.path.isdir(folder):
            found.append((folder, os.stat(folder).st_mtime_ns))
    return tuple(found)


@cache
def _listing(stamp: Stamp) -> dict[str, Path]:
    """Entries of the folders in `stamp`, read again only when a folder has changed."""
    found: dict[str, Path] = {}
    for folder, _ in reversed(stamp):
        found |= {p.stem: p for p in Path(folder).glob("*.toml")}
    return dict(sorted(found.items()))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a missing or malformed one is a `CatalogError`."""
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(str(path), [f"is not valid TOML: {error}"]) from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CatalogError(str(path), [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise CatalogError(str(path), [f"is not valid TOML: {error}"]) from None


def load_file(path: Path, cls: type[T], **extra: Any) -> T:
    """Read one entry from `path` into the attrs class `cls` and check its sources."""
    table = read_toml(path)
    problems: list[str] = []
    value = _structure(table, cls, "", problems, extra)
    if value is not None:
        problems += _source_problems(value)
    if problems or value is None:
        raise CatalogError(str(path), problems)
    return value


@cache
def _load_cached(path: Path, cls: type, stamp: int) -> Any:
    return load_file(path, cls, id=path.stem)


_HELD: ContextVar[dict[tuple[str, str], Any] | None] = ContextVar("held", default=None)


@contextmanager
def steady() -> Iterator[None]:
    """Inside it no file is taken to change: what was loaded once is not looked for again.

    A search asks for the same formats a thousand times; looking each time whether somebody has
    edited them costs more than the search's own arithmetic on small models.
    """
    token = _HELD.set({})
    try:
        yield
    finally:
        _HELD.reset(token)


def load(kind: str, name: str, cls: type[T], noun: str) -> T:
    """The entry of `kind` called `name` (its id or one of its aliases, case-insensitive)."""
    held = _HELD.get()
    if held is None:
        return _load(kind, name, cls, noun)
    if (kind, name) not in held:
        held[kind, name] = _load(kind, name, cls, noun)
    return held[kind, name]


def _load(kind: str, name: str, cls: type[T], noun: str) -> T:
    stamp = _stamp(kind)
    path = _find(stamp, name)
    if path is None:
        known = [*_listing(stamp), *_aliases(stamp)]
        raise UnknownName(noun, name, known, f"See `isoflop catalog list {kind}`.")
    return _load_cached(path, cls, os.stat(path).st_mtime_ns)


@cache
def _find(stamp: Stamp, name: str) -> Path | None:
    """The file of an entry by its id, or else by an alias."""
    available, wanted = _listing(stamp), normal(name)
    found = available.get(name) or available.get(wanted)
    if found is not None:
        return found
    # Only files that spell the name somewhere are parsed: a catalog has a hundred others.
    spelled = re.compile("[-_/ ]+".join(map(re.escape, wanted.split("-"))), re.IGNORECASE)
    for path in available.values():
        if spelled.search(_text(path)) and wanted in _names(path):
            return path
    return None


def load_all(kind: str, cls: type[T]) -> Iterator[T]:
    """Every entry of `kind`, by id."""
    for path in paths(kind).values():
        yield _load_cached(path, cls, path.stat().st_mtime_ns)


def normal(name: str) -> str:
    """A name as catalogs compare it: lower case, `_`, `/`, blanks and repeats as one `-`."""
    text = "".join("-" if c in "_/ -" else c for c in name.strip().lower())
    return "-".join(part for part in text.split("-") if part)


@cache
def _aliases(stamp: Stamp) -> dict[str, Path]:
    """Every name that an entry goes by; the first entry of a name wins."""
    table: dict[str, Path] = {}
    for path in _listing(stamp).values():
        for name in _names(path):
            table.setdefault(name, path)
    return table


def _names(path: Path) -> list[str]:
    """The id, aliases and repository of one entry, as catalogs compare them."""
    data = read_toml(path)
    names = [path.stem, *data.get("aliases", ()), data.get("hf_id", "")]
    return [normal(n) for n in names if n]


# --- structuring ------------------------------------------------------------------------------


def structure(table: Mapping[str, Any], cls: type[T], where: str = "") -> T:
    """Build `cls` from a table, raising one `CatalogError` that lists every problem."""
    problems: list[str] = []
    value = _structure(table, cls, "", problems, {})
    if problems or value is None:
        raise CatalogError(where or cls.__name__, problems)
    return value


def key_of(field: attrs.Attribute) -> tuple[str, str | None]:
    """TOML key of a field and the unit dimension its name carries, if any."""
    if field.metadata.get("plain"):
        return field.name, None
    for suffix in units.SUFFIXES:
        if field.name.endswith(suffix):
            return field.name.removesuffix(suffix), suffix[1:]
    return field.name, None


def _structure(
    table: Any, cls: type, at: str, problems: list[str], extra: Mapping[str, Any]
) -> Any:
    where = f"[{at}] " if at else ""
    if not isinstance(table, Mapping):
        problems.append(f"{where}must be a table, not {table!r}")
        return None
    before = len(problems)
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = dict(extra)
    known = {}
    for field in attrs.fields(cls):
        if not field.init or field.name in extra:
            continue
        key, dimension = key_of(field)
        known[key] = field
        if key in table:
            path = f"{at}.{key}" if at else key
            values[field.name] = _value(table[key], hints[field.name], dimension, path, problems)
        elif field.default is attrs.NOTHING:
            problems.append(f"{where}lacks '{key}'")
    for key in table:
        if key not in known:
            near = ", ".join(sorted(known))
            problems.append(f"{where}has the unknown key '{key}' (known: {near})")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except (IsoflopError, ValueError, TypeError) as error:
        problems.append(f"{where}{error}")
        return None


def _value(raw: Any, hint: Any, dimension: str | None, at: str, problems: list[str]) -> Any:
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in args if a is not type(None)]
        return None if raw is None else _value(raw, inner[0], dimension, at, problems)
    if origin is typing.Literal:
        if raw not in args:
            problems.append(f"{at} is {raw!r}; it must be one of {', '.join(map(repr, args))}")
        return raw
    if attrs.has(hint):
        return _structure(raw, hint, at, problems, {})
    if origin in (tuple, list):
        if not isinstance(raw, list):
            problems.append(f"{at} must be a list, not {raw!r}")
            return ()
        return tuple(
            _value(item, args[0], dimension, f"{at}[{i}]", problems) for i, item in enumerate(raw)
        )
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(raw, Mapping):
            problems.append(f"{at} must be a table, not {raw!r}")
            return {}
        inner = args[1] if args else Any
        return {k: _value(v, inner, dimension, f"{at}.{k}", problems) for k, v in raw.items()}
    return _scalar(raw, hint, dimension, at, problems)


def _scalar(raw: Any, hint: Any, dimension: str | None, at: str, problems: list[str]) -> Any:
    if dimension is not None:
        try:
            value = units.parse(raw, dimension, at)
        except UnitError as error:
            problems.append(str(error))
            return 0.0
        if value < 0:
            problems.append(f"{at} is {raw!r}; it must not be negative")
        return value
    if hint is float and isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return float(raw)
    if hint is Any or (hint in (int, str, bool) and type(raw) is hint):
        return raw
    problems.append(f"{at} is {raw!r}; it must be of type {getattr(hint, '__name__', hint)}")
    return raw


def _source_problems(value: Any) -> list[str]:
    """Every nested table's `source` must name an entry of `[sources]`, or be an estimate + note."""
    known: Mapping[str, Source] = getattr(value, "sources", {})
    problems = []

    def visit(node: Any, at: str) -> None:
        if attrs.has(type(node)) and not isinstance(node, Source):
            source = getattr(node, "source", None)
            if isinstance(source, str):
                if source == "estimate":
                    if not getattr(node, "note", ""):
                        problems.append(f"[{at}] is an estimate and needs a 'note' saying why")
                elif source not in known:
                    problems.append(
                        f"[{at}] names the source '{source}', which [sources] does not define"
                    )
            for field in attrs.fields(type(node)):
                child = getattr(node, field.name)
                for i, item in enumerate(child if isinstance(child, tuple) else [child]):
                    name = f"{at}.{field.name}" if at else field.name
                    visit(item, f"{name}[{i}]" if isinstance(child, tuple) else name)

    visit(value, "")
    return problems
