"""`isoflop catalog list|show|check|new`."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from ..errors import InvalidInput, UnknownName

app = App(name="catalog", help="List, show, check and create catalog entries.")

_JSON = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.")]


KINDS = {
    "accelerators": ("hardware", "Accelerator"),
    "clusters": ("hardware", "Cluster"),
    "formats": ("formats", "NumberFormat"),
    "limits": ("training.limits", "PublishedLimits"),
    "models": ("models", "ModelSpec"),
    "runs": ("training.published", "PublishedRun"),
}
"""Module and class of each catalog's entries, imported when that catalog is read."""


def _class(kind: str) -> type:
    module, name = KINDS[kind]
    return getattr(import_module(f"isoflop.{module}"), name)


def _kind(name: str) -> tuple[str, type]:
    for kind in KINDS:
        if name.lower() in (kind, kind.removesuffix("s")):
            return kind, _class(kind)
    raise UnknownName("catalog", name, KINDS)


@app.command(name="list")
def list_entries(kind: str = "", *, json: _JSON = False) -> None:
    """List the entries of one catalog, or count those of all.

    Parameters
    ----------
    kind
        accelerators, clusters, formats, limits, models or runs.
    """
    from .. import catalog
    from ._output import console, print_json, table

    if not kind:
        counts = {k: len(catalog.paths(k)) for k in KINDS}
        if json:
            print_json(counts)
            return
        rows = [[k, str(n), f"isoflop catalog list {k}"] for k, n in counts.items()]
        console().print(table("Catalogs", ["catalog", "entries", "list them with"], rows))
        return
    name, cls = _kind(kind)
    entries = catalog.load_all(name, cls)
    if json:
        print_json([_record(entry) for entry in entries])
        return
    records = [_summary(entry) for entry in entries]
    columns = list(records[0]) if records else ["id"]
    rows = [[str(r.get(c, "")) for c in columns] for r in records]
    console().print(table(f"{len(records)} {name}", columns, rows, left=2,
                          wrap=name == "clusters"))  # fmt: skip


def _record(entry: object) -> dict[str, object]:
    """The line of a list for programs: plain numbers in SI units."""
    from ..hardware import Accelerator
    from ..models import ModelSpec

    if isinstance(entry, Accelerator):
        usd = entry.price.on_demand_usd_per_hour if entry.price else None
        return {
            "id": entry.id, "name": entry.name, "family": entry.family,
            "memory_bytes": entry.memory.capacity_bytes,
            "bandwidth_bytes_per_s": entry.memory.bandwidth_bytes_per_s,
            "dense_flop_per_s": entry.rates.dense_flop_per_s, "usd_per_hour": usd,
        }  # fmt: skip
    if isinstance(entry, ModelSpec):
        return {
            "id": entry.id, "name": entry.name, "parameters": entry.parameters,
            "active_parameters": entry.active_parameters, "layers": entry.depth,
            "max_context": entry.max_context, "weight_format": entry.weight_format,
        }  # fmt: skip
    return dict(_summary(entry))


def _summary(entry: object) -> dict[str, str]:
    from ..formats import NumberFormat
    from ..hardware import Accelerator, Cluster
    from ..models import ModelSpec
    from ..units import show_bytes, show_count, show_flop_rate, show_rate

    if isinstance(entry, Accelerator):
        fmt = next((f for f in ("bf16", "fp16", "fp32") if f in entry.rates.dense_flop_per_s), "")
        rate = show_flop_rate(entry.rates.dense_flop_per_s[fmt]) if fmt else "-"
        usd = f"{entry.price.on_demand_usd_per_hour:.2f}" if entry.price else "-"
        return {
            "id": entry.id, "name": entry.name, "memory": show_bytes(entry.memory.capacity_bytes),
            "bandwidth": show_rate(entry.memory.bandwidth_bytes_per_s),
            "dense rate": f"{rate} {fmt}", "USD/h": usd,
        }  # fmt: skip
    if isinstance(entry, Cluster):
        tiers = " > ".join(f"{t.name} ({t.devices})" for t in entry.tiers)
        return {"id": entry.id, "name": entry.name, "device": entry.accelerator, "tiers": tiers}
    if isinstance(entry, NumberFormat):
        return {
            "id": entry.id, "name": entry.name, "bits": f"{entry.bits_per_value:.4g}",
            "role": entry.role,
        }  # fmt: skip
    if isinstance(entry, ModelSpec):
        return {
            "id": entry.id, "name": entry.name, "parameters": show_count(entry.parameters),
            "active": show_count(entry.active_parameters), "layers": str(entry.depth),
            "context": f"{entry.max_context:,}",
        }  # fmt: skip
    from ..training.limits import PublishedLimits
    from ..training.published import PublishedRun

    if isinstance(entry, PublishedLimits):
        sizes = sum(len(limit.fits) + len(limit.fails) for limit in entry.limits)
        return {"id": entry.id, "name": entry.name, "recipes": str(len(entry.limits)),
                "sizes": str(sizes)}  # fmt: skip
    assert isinstance(entry, PublishedRun)
    return {"id": entry.id, "name": entry.name, "plan": entry.plan, "figure": entry.figure}


@app.command
def show(kind: str, name: str, *, json: _JSON = False) -> None:
    """Show one entry with the source of every table.

    Parameters
    ----------
    kind
        accelerators, clusters, formats, limits, models or runs.
    name
        Its id or an alias; for models also a Hugging Face config.json.
    """
    import attrs

    from .. import catalog
    from ..models import load_model
    from ._output import print_json

    folder, cls = _kind(kind)
    if folder == "models":
        entry = load_model(name)
    else:
        entry = catalog.load(folder, name, cls, folder.removesuffix("s"))
    if json:
        print_json(attrs.asdict(entry))
        return
    path = catalog.paths(folder).get(entry.id)
    if path is None:
        print_json(attrs.asdict(entry))
        return
    print(path.read_text(encoding="utf-8").rstrip())


@app.command
def check(path: Path | None = None) -> None:
    """Check every catalog entry, or one file, and report all problems at once.

    Parameters
    ----------
    path
        A TOML file inside a folder named accelerators, clusters, formats, limits, models or runs.
    """
    from .. import catalog
    from ..errors import CatalogError

    targets = (
        [(path.parent.name, path)]
        if path
        else [(kind, p) for kind in KINDS for p in catalog.paths(kind).values()]
    )
    failures = []
    for kind, file in targets:
        if kind not in KINDS:
            raise InvalidInput(
                f"'{file}' is in a folder called '{kind}'; a catalog file lives in one of "
                f"{', '.join(KINDS)}."
            )
        try:
            entry = catalog.load_file(file, _class(kind), id=file.stem)
            failures += [f"{file}: {text}" for text in _failed_checks(entry)]
        except CatalogError as error:
            failures.append(str(error))
    if failures:
        raise InvalidInput("\n".join([*failures, f"{len(failures)} of {len(targets)} failed."]))
    print(f"{len(targets)} catalog files are in order.")


def _failed_checks(entry: object) -> list[str]:
    texts = []
    for test in getattr(entry, "checks", ()):
        value = getattr(entry, test.quantity)
        if abs(value / test.value - 1.0) > test.rel_tol:
            texts.append(
                f"{test.quantity} is {value:.6g} but {test.value:.6g} was published "
                f"({100 * (value / test.value - 1):+.2f}%, tolerance {100 * test.rel_tol:.2g}%)"
            )
    return texts


@app.command
def new(kind: str, name: str, *, copy_from: str, folder: Path = Path()) -> None:
    """Start a new entry as a copy of an existing one, in a user folder.

    Parameters
    ----------
    kind
        accelerators, clusters, formats, limits, models or runs.
    name
        Id of the new entry.
    copy_from
        Entry to start from.
    folder
        User catalog root; the file is written to FOLDER/KIND/NAME.toml.
    """
    from .. import catalog
    from ._output import write_whole

    table, cls = _kind(kind)
    source = catalog.load(table, copy_from, cls, table.removesuffix("s"))
    target = folder / table / f"{name}.toml"
    if target.exists():
        raise InvalidInput(f"'{target}' exists already; choose another name or edit that file.")
    if catalog.normal(name) != name:
        raise InvalidInput(f"'{name}' is not an id; write it as '{catalog.normal(name)}'.")
    text = catalog.paths(table)[source.id].read_text(encoding="utf-8")
    # The copy must not answer to the original's names.
    kept = re.sub(r"(?ms)^aliases\s*=\s*\[.*?\]\s*?$\n?", "", text)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, kept)
    print(
        f"Wrote {target}. Edit it, run `isoflop catalog check {target}`, then point "
        f"{catalog.ENV_VARIABLE} at {folder.resolve()}."
    )
