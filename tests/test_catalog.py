"""Catalogs: structuring, sources, overlays and every error a file can cause."""

import os
import re

import pytest
from attrs import field, frozen

from isoflop import catalog
from isoflop.errors import CatalogError, UnknownName
from isoflop.formats import load_format
from isoflop.hardware import ACCELERATORS, Accelerator, load_accelerator
from isoflop.provenance import Source


@frozen(kw_only=True)
class Part:
    speed_bytes_per_s: float
    count: int = 1
    source: str
    note: str = ""


@frozen(kw_only=True)
class Thing:
    id: str
    name: str
    part: Part
    rates_flop_per_s: dict[str, float] = field(factory=dict)
    sources: dict[str, Source] = field(factory=dict)


GOOD = """
name = "Thing"
[part]
speed = "2 GB/s"
source = "sheet"
[sources.sheet]
title = "A data sheet"
locator = "Table 1"
date = "2024"
"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "thing.toml"
        path.write_text(text, encoding="utf-8")
        return catalog.load_file(path, Thing, id="thing")

    return read


def problems(read, text):
    with pytest.raises(CatalogError) as caught:
        read(text)
    return caught.value.problems


def test_good_file(read):
    thing = read(GOOD)
    assert (thing.id, thing.part.speed_bytes_per_s, thing.part.count) == ("thing", 2e9, 1)


def test_unknown_key(read):
    (problem,) = problems(read, GOOD.replace("speed", 'colour = "red"\nspeed'))
    assert "unknown key 'colour'" in problem
    assert "speed" in problem


def test_missing_key(read):
    (problem,) = problems(read, GOOD.replace('name = "Thing"', ""))
    assert problem == "lacks 'name'"


def test_missing_key_of_a_table_names_the_table(read):
    (problem,) = problems(read, GOOD.replace('speed = "2 GB/s"', ""))
    assert problem == "[part] lacks 'speed'"


def test_undefined_source(read):
    (problem,) = problems(read, GOOD.replace('source = "sheet"', 'source = "rumour"'))
    assert "[part]" in problem
    assert "'rumour'" in problem


def test_estimate_needs_a_note(read):
    text = GOOD.replace('source = "sheet"', 'source = "estimate"')
    (problem,) = problems(read, text)
    assert "needs a 'note'" in problem
    noted = text.replace('"estimate"', '"estimate"\nnote = "half of its sibling"')
    assert read(noted).part.note == "half of its sibling"


def test_wrong_dimension(read):
    (problem,) = problems(read, GOOD.replace("2 GB/s", "2 GB"))
    assert "part.speed" in problem
    assert "bytes_per_s" in problem


@pytest.mark.parametrize("value", ["nan", "inf", '"-2 GB/s"', "true", '"fast"'])
def test_bad_quantities(read, value):
    assert "part.speed" in problems(read, GOOD.replace('"2 GB/s"', value))[0]


def test_wrong_type(read):
    (problem,) = problems(read, GOOD.replace("source", 'count = "three"\nsource', 1))
    assert "part.count" in problem
    assert "int" in problem


def test_a_value_where_a_table_belongs(read):
    (problem,) = problems(read, 'name = "Thing"\npart = 3\n')
    assert problem == "[part] must be a table, not 3"


def test_all_problems_at_once(read):
    text = 'colour = "red"\n[part]\nspeed = "2 GB"\ncount = 1.5\n[rates]\nbf16 = "1 W"\n'
    with pytest.raises(CatalogError) as caught:
        read(text)
    found = caught.value.problems
    joined = "\n".join(found)
    for part in ("'colour'", "'name'", "part.speed", "part.count", "'source'", "rates.bf16"):
        assert part in joined
    assert len(found) == 6
    assert "has 6 problems:" in str(caught.value)
    assert all(p in str(caught.value) for p in found)


def test_not_toml(read):
    assert "not valid TOML" in problems(read, "name = ")[0]


def test_missing_file(tmp_path):
    with pytest.raises(CatalogError, match="cannot be read"):
        catalog.load_file(tmp_path / "none.toml", Thing, id="none")


def test_literals_are_checked():
    data = catalog.read_toml(catalog.paths(ACCELERATORS)["rtx-4090"])
    with pytest.raises(CatalogError, match="family is 'voodoo'"):
        catalog.structure({**data, "id": "x", "family": "voodoo"}, Accelerator)


@pytest.mark.parametrize(
    ("name", "same"),
    [("H100_SXM", "h100-sxm"), (" a  b ", "a-b"), ("org/Name-1.5", "org-name-1.5"), ("--x", "x")],
)
def test_normal(name, same):
    assert catalog.normal(name) == same
    assert catalog.normal(same) == same


def overlay(root, stem, *changes):
    folder = root / ACCELERATORS
    folder.mkdir(parents=True, exist_ok=True)
    text = catalog.paths(ACCELERATORS)["rtx-4090"].read_text(encoding="utf-8")
    text = re.sub(r"^aliases = \[[^]]*\]$", "aliases = []", text, flags=re.MULTILINE)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / f"{stem}.toml").write_text(text, encoding="utf-8")


def test_overlay_adds_and_wins(tmp_path, monkeypatch):
    builtin = load_accelerator("rtx-4090")
    overlay(tmp_path, "rtx-4090", ('"24 GiB"', '"48 GiB"'))
    overlay(tmp_path, "my-card", ("GeForce RTX 4090", "My card"))
    with pytest.raises(UnknownName):
        load_accelerator("my-card")
    monkeypatch.setenv(catalog.ENV_VARIABLE, str(tmp_path))
    assert load_accelerator("rtx-4090").memory.capacity_bytes == 48 * 2**30
    assert "My card" in load_accelerator("MY_CARD").name
    assert load_accelerator("rtx-3090").id == "rtx-3090"
    assert load_format("bf16").id == "bf16"
    monkeypatch.delenv(catalog.ENV_VARIABLE)
    assert load_accelerator("rtx-4090") == builtin


def test_first_overlay_wins(tmp_path, monkeypatch):
    overlay(tmp_path / "a", "my-card", ('"24 GiB"', '"1 GiB"'))
    overlay(tmp_path / "b", "my-card", ('"24 GiB"', '"2 GiB"'))
    both = os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "none")])
    monkeypatch.setenv(catalog.ENV_VARIABLE, both)
    assert load_accelerator("my-card").memory.capacity_bytes == 2**30


def test_an_edited_overlay_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv(catalog.ENV_VARIABLE, str(tmp_path))
    overlay(tmp_path, "my-card")
    assert load_accelerator("my-card").memory.capacity_bytes == 24 * 2**30
    overlay(tmp_path, "my-card", ('"24 GiB"', '"32 GiB"'))
    file = tmp_path / ACCELERATORS / "my-card.toml"
    later = file.stat().st_mtime_ns + 10**9
    os.utime(file, ns=(later, later))
    assert load_accelerator("my-card").memory.capacity_bytes == 32 * 2**30


def test_load_all_is_sorted():
    ids = [d.id for d in catalog.load_all(ACCELERATORS, Accelerator)]
    assert ids == sorted(ids)
    assert len(ids) == len(catalog.paths(ACCELERATORS))


@pytest.mark.parametrize(
    ("name", "near"), [("rtx-409", "rtx-4090"), ("tpu-v7", "tpu-v4"), ("MI300", "mi300x")]
)
def test_unknown_names_suggest(name, near):
    with pytest.raises(UnknownName) as caught:
        load_accelerator(name)
    assert caught.value.name == name
    assert near in caught.value.suggestions
    assert len(caught.value.suggestions) <= 4
