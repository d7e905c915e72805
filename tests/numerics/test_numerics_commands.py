"""The commands print what the library computes, and wrong input is a sentence."""

import json

import numpy as np
import pytest
from cyclopts import App

from isoflop.commands.formats import app as formats
from isoflop.commands.quantize import quantize
from isoflop.errors import InvalidInput, UnknownName
from isoflop.numerics import load_format
from isoflop.numerics.safetensors import SafetensorsFile, Writer


@pytest.fixture
def command():
    app = App(name="isoflop")
    app.command(quantize)
    app.command(formats)
    return lambda *words: app(words, exit_on_error=False, result_action="return_value")


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.safetensors"
    rng = np.random.default_rng(0)
    writer = Writer(path, {f"l{i}.weight": ("F32", (32, 64)) for i in range(3)}, {})
    for i in range(3):
        writer.write(f"l{i}.weight", rng.standard_normal((32, 64)).astype(np.float32))
    writer.finish()
    return path


def test_formats(command, capsys):
    command("formats", "list", "--json")
    rows = json.loads(capsys.readouterr().out)["formats"]
    assert {r["name"]: r["max"] for r in rows}["fp8-e4m3"] == 448
    command("formats", "show", "fp4-e2m1", "--codes", "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown["values"] == load_format("fp4-e2m1").values.tolist()
    command("formats", "compare", "mxfp4", "nvfp4", "int8", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["relative_rmse"] == pytest.approx(0.115, rel=0.01)
    assert rows[1]["relative_rmse"] == pytest.approx(0.0951, rel=0.01)
    command("formats", "list")
    assert "nvfp4" in capsys.readouterr().out
    with pytest.raises(UnknownName):
        command("formats", "show", "fp9")
    with pytest.raises(UnknownName, match="distribution"):
        command("formats", "compare", "mxfp4", "--distribution", "cauchy")
    with pytest.raises(InvalidInput, match="65536 codes"):
        command("formats", "show", "fp16", "--codes")


def test_conformance_counts_no_difference(command, capsys):
    command("formats", "conformance", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert sum(r["compared"] for r in rows) > 1_000_000
    assert not any(r["different"] for r in rows)
    assert {r["against"] for r in rows} >= {
        "rational arithmetic", "bit strings", "Babai", "Babai's bound"
    }  # fmt: skip
    for row in rows:
        assert (row["compared"] == 0) == (row["note"] == "not installed"), row


def test_conformance_counts_what_is_wrong(monkeypatch):
    from isoflop.numerics.conformance import nearest_plane, rational

    monkeypatch.setattr(rational, "EXACT_FORMATS", ("fp8-e4m3",))
    monkeypatch.setattr(rational, "round_to", lambda x, fmt, **_: np.zeros_like(x))
    assert rational.check()[0]["different"] > 1000
    monkeypatch.setattr(nearest_plane, "LAYERS", 5)
    monkeypatch.setattr(nearest_plane, "bound", lambda *_: 0.0)
    assert nearest_plane.check()[1]["different"] > 0


def test_quantize_reports_and_writes(command, model, tmp_path, capsys):
    out = tmp_path / "o.safetensors"
    command("quantize", str(model), "--format", "nvfp4", "--output", str(out), "--packed", "--json")
    report = json.loads(capsys.readouterr().out)
    assert len(report["layers"]) == 3
    assert report["total"]["bits_per_weight"] == pytest.approx(4.5 + 32 / 2048)
    assert "l0.weight.codes" in SafetensorsFile(out).tensors
    command("quantize", str(model), "--method", "clip")
    text = capsys.readouterr().out
    assert "Total of 3 layers" in text
    assert "l2" in text


def test_quantize_allocates_and_writes_the_choice(command, model, tmp_path, capsys):
    out = tmp_path / "o.safetensors"
    words = ["quantize", str(model), "--compare", "nvfp4,int8-g32", "--bits-per-weight", "6.4"]
    command(*words, "--output", str(out))
    text = capsys.readouterr().out
    assert "Allocation" in text
    assert "Pareto" in text
    assert out.exists()
    with pytest.raises(InvalidInput, match="needs formats to choose from"):
        command("quantize", str(model), "--bits-per-weight", "5")


def test_a_folder_of_shards(command, model, tmp_path, capsys):
    folder = tmp_path / "shards"
    folder.mkdir()
    for i in (1, 2):
        (folder / f"model-{i}.safetensors").write_bytes(model.read_bytes())
    command("quantize", str(folder), "--output", str(tmp_path / "q"), "--json")
    assert len(json.loads(capsys.readouterr().out)["layers"]) == 6
    assert len(list((tmp_path / "q").glob("*.safetensors"))) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"no \.safetensors"):
        command("quantize", str(tmp_path / "empty"))
