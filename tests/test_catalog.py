"""Reading catalog files: every problem reported at once, user folders laid over the built-in."""

import pytest
from attrs import frozen

from isoflop import catalog
from isoflop.errors import CatalogError, UnknownName
from isoflop.hardware import Accelerator, load_accelerator
from isoflop.models import load_asked

H100 = (catalog.BUILTIN / "accelerators" / "h100-sxm.toml").read_text(encoding="utf-8")


def problems_of(tmp_path, text, name="mine"):
    path = tmp_path / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CatalogError) as caught:
        catalog.load_file(path, Accelerator, id=name)
    assert str(path) in str(caught.value)
    return caught.value.problems


def edited(*changes):
    text = H100
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def test_the_unedited_text_loads(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(H100, encoding="utf-8")
    device = catalog.load_file(path, Accelerator, id="mine")
    assert device.id == "mine"
    assert device.memory == load_accelerator("h100-sxm").memory


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("bandwidth =", "bandwith =", ["lacks 'bandwidth'", "unknown key 'bandwith'"]),
        ('vendor = "NVIDIA"\n', "", ["lacks 'vendor'"]),
        ('family = "hopper"', 'family = "copper"', ["family is 'copper'", "'hopper'"]),
        ("units = 132", 'units = "132"', ["compute.units", "type int"]),
        ("units = 132", "units = true", ["compute.units", "type int"]),
        ('"81559 MiB"', '"81559 MiB/s"', ["memory.capacity", "bytes is needed"]),
        ('"3.35 TB/s"', '"-3.35 TB/s"', ["memory.bandwidth", "must not be negative"]),
        ('"3.35 TB/s"', '"0 TB/s"', ["[memory]", "above zero"]),
        ('"3.35 TB/s"', "nan", ["memory.bandwidth", "not a finite number"]),
        ('bf16 = "989.4 TFLOP/s"', 'bf16 = "fast"', ["rates.dense.bf16"]),
        ('bf16 = "989.4 TFLOP/s"', "bf16 = 0.0", ["[rates]", "dense rate of bf16"]),
        ("[compute]", "[compute]\nspeed = 1", ["[compute]", "unknown key 'speed'"]),
        (
            'source = "datasheet"',
            'source = "brochure"',
            ["[memory] names the source 'brochure', which [sources] does not define"],
        ),
    ],
)
def test_one_mistake_is_named(tmp_path, old, new, says):
    found = "\n".join(problems_of(tmp_path, edited((old, new))))
    for text in says:
        assert text in found


def test_all_mistakes_are_reported_at_once(tmp_path):
    changes = [
        ('vendor = "NVIDIA"\n', ""),
        ("units = 132", "units = 1.5"),
        ('"3.35 TB/s"', '"3.35 TB"'),
        ("[power]", "[power]\nfuse = 3"),
    ]
    found = problems_of(tmp_path, edited(*changes))
    assert len(found) == 4
    for what in ("vendor", "compute.units", "memory.bandwidth", "fuse"):
        assert any(what in problem for problem in found)


def test_an_estimate_needs_a_note(tmp_path):
    text = edited(("[overhead]", "[overhead]"))
    head, _, tail = text.partition("[overhead]")
    body, _, rest = tail.partition("\n\n")
    body = "\n".join(line for line in body.splitlines() if not line.startswith("note"))
    found = problems_of(tmp_path, f"{head}[overhead]{body}\n\n{rest}")
    assert found == ("[overhead] is an estimate and needs a 'note' saying why",)


def test_broken_toml_and_missing_files_are_catalog_errors(tmp_path):
    assert "not valid TOML" in problems_of(tmp_path, "name = ")[0]
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(CatalogError, match="not valid TOML"):
        catalog.read_toml(tmp_path / "latin.toml")
    with pytest.raises(CatalogError, match="cannot be read"):
        catalog.read_toml(tmp_path / "absent.toml")
    with pytest.raises(CatalogError, match="cannot be read"):
        catalog.read_toml(tmp_path)


def test_structure_reports_where(tmp_path):
    @frozen(kw_only=True)
    class Leaf:
        size_bytes: float

    @frozen(kw_only=True)
    class Tree:
        leaves: tuple[Leaf, ...]
        tag: str | None = None

    tree = catalog.structure({"leaves": [{"size": "1 KiB"}, {"size": 3}]}, Tree)
    assert [leaf.size_bytes for leaf in tree.leaves] == [1024.0, 3.0]
    with pytest.raises(CatalogError) as caught:
        catalog.structure({"leaves": [{"size": "1 KiB"}, {}], "tag": 4}, Tree, "the tree")
    assert "the tree has 2 problems" in str(caught.value)
    assert "leaves[1]" in str(caught.value)


def test_user_folders_add_to_and_replace_the_built_in_catalog(tmp_path, monkeypatch):
    folder = tmp_path / "accelerators"
    folder.mkdir()
    text = edited(("81559 MiB", "40 GiB")).replace('"h100",', '"my-card",')
    (folder / "h100-sxm.toml").write_text(text, encoding="utf-8")
    (folder / "zz-new.toml").write_text(text.replace("my-card", "newest"), encoding="utf-8")
    built_in = load_accelerator("h100-sxm").memory.capacity_bytes
    monkeypatch.setenv(catalog.ENV_VARIABLE, str(tmp_path))
    assert load_accelerator("h100-sxm").memory.capacity_bytes == 40 * 2**30
    assert load_accelerator("my-card").id == "h100-sxm"
    assert load_accelerator("newest").id == "zz-new"
    assert load_accelerator("a100").id == "a100-80gb-sxm"
    monkeypatch.setenv(catalog.ENV_VARIABLE, str(tmp_path / "nowhere"))
    assert load_accelerator("h100-sxm").memory.capacity_bytes == built_in


def test_the_first_user_folder_wins(tmp_path, monkeypatch):
    import os

    for i, size in enumerate(["10 GiB", "20 GiB"]):
        folder = tmp_path / str(i) / "accelerators"
        folder.mkdir(parents=True)
        (folder / "h100-sxm.toml").write_text(edited(("81559 MiB", size)), encoding="utf-8")
    both = os.pathsep.join([str(tmp_path / "0"), str(tmp_path / "1")])
    monkeypatch.setenv(catalog.ENV_VARIABLE, both)
    assert load_accelerator("h100-sxm").memory.capacity_bytes == 10 * 2**30


@pytest.mark.parametrize(
    ("given", "expected"),
    [("h10", "h100"), ("H100-SMX", "h100-sxm"), ("rtx-4900", "rtx-4090"), ("mi300", None)],
)
def test_unknown_names_suggest_near_ones(given, expected):
    if expected is None:  # an alias, so it resolves
        assert load_accelerator(given).id == "mi300x"
        return
    with pytest.raises(UnknownName) as caught:
        load_accelerator(given)
    assert expected in caught.value.suggestions
    assert f"There is no accelerator called '{given}'." in str(caught.value)
    assert "isoflop catalog list accelerators" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("H100_SXM", "h100-sxm"), (" NVIDIA  H100/80GB ", "nvidia-h100-80gb"), ("a__b", "a-b")],
)
def test_normal_names(name, expected):
    assert catalog.normal(name) == expected


def test_an_empty_name_is_an_unknown_name():
    with pytest.raises(UnknownName, match="no accelerator called ''"):
        load_accelerator("")


def test_answers_say_the_name_that_was_asked_for():
    for asked, said in (
        ("deepseek-ai/DeepSeek-R1", "DeepSeek-R1 (as DeepSeek-V3)"),
        ("llama-3.1-8b", "Llama 3.1 8B"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "Llama 3.1 70B"),
        ("mt-nlg-530b", "Megatron-Turing NLG 530B"),
    ):  # fmt: skip
        assert load_asked(asked).name == said


def test_every_alias_leads_to_its_entry():
    """Looked up one at a time, names find the entry that the full table of aliases gives."""
    for kind in ("accelerators", "clusters", "formats", "models", "laws"):
        table = catalog._aliases(catalog._stamp(kind))
        assert len(table) > len(catalog.paths(kind)) or kind == "laws"
        for name, path in table.items():
            assert catalog._find(catalog._stamp(kind), name) == path
