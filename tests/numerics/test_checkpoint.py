"""Checkpoints: streaming, packing, resume, allocation, and files that are wrong."""

import itertools
import json
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from isoflop.errors import DoesNotFit, InvalidInput, IsoflopError, UnknownName
from isoflop.numerics import checkpoint, round_to
from isoflop.numerics.allocation import allocate, pareto
from isoflop.numerics.checkpoint import Settings, quantize_file, unpack_layer
from isoflop.numerics.mixed import choose, totals
from isoflop.numerics.quantizers import load_weight_format
from isoflop.numerics.safetensors import SafetensorsFile, Writer, to_words


def write(path, tensors):
    """A safetensors file by the library-independent layout."""
    header, data = {}, b""
    for name, array in tensors.items():
        dtype = {"<f4": "F32", "<f2": "F16", "<u2": "BF16"}[array.dtype.str]
        raw = array.tobytes()
        header[name] = {
            "dtype": dtype, "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }  # fmt: skip
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.fixture
def model(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"model.embed_tokens.weight": rng.standard_normal((40, 64)).astype(np.float16)}
    inputs = {}
    for i in range(3):
        w = (rng.standard_normal((48, 64)) * 0.02).astype(np.float32)
        w[:, 5] *= 10 ** (i / 2)
        name = f"layers.{i}.proj"
        if i == 0:
            w = w.astype(np.float16)
        elif i == 1:
            w = to_words(w, "BF16").astype("<u2")
        tensors[f"{name}.weight"] = w
        mix = rng.standard_normal((64, 64)) * np.exp(rng.standard_normal(64))
        inputs[name] = (rng.standard_normal((300, 64)) @ mix).astype(np.float32)
    tensors["norm.weight"] = np.ones(64, np.float32)
    return write(tmp_path / "m.safetensors", tensors), write(tmp_path / "c.safetensors", inputs)


def test_reader_agrees_with_the_safetensors_package(model):
    package = pytest.importorskip("safetensors")
    path, _ = model
    ours = SafetensorsFile(path)
    with package.safe_open(str(path), "np") as peer:
        assert set(peer.keys()) == set(ours.tensors)
        for name, info in ours.tensors.items():
            if info.dtype != "BF16":
                assert np.array_equal(peer.get_tensor(name), ours.raw(name))


@pytest.mark.parametrize("name", ["nvfp4", "int4-g32-asym", "mxfp4", "int8", "nf4", "fp8-e4m3"])
@pytest.mark.parametrize("packed", [False, True])
def test_written_values_are_the_reported_ones(model, tmp_path, name, packed):
    path, _ = model
    out = tmp_path / "o.safetensors"
    report = quantize_file(path, Settings(format=name, packed=packed), output=out)
    assert not list(tmp_path.glob("*.p*"))
    source, result = SafetensorsFile(path), SafetensorsFile(out)
    fmt = load_weight_format(name)
    for layer in report.layers:
        weight = source.float32(layer.name)
        expected = round_to(weight, fmt)
        if packed:
            got = unpack_layer(result, layer.name, fmt, 64)
            assert np.array_equal(got, expected)
            stored = [t for n, t in result.tensors.items() if n.startswith(layer.name)]
            assert sum(t.end - t.begin for t in stored) == layer.sums.storage_bytes
        else:
            info = source.tensors[layer.name]
            words = to_words(expected, info.dtype)
            assert np.array_equal(result.raw(layer.name), words)
        error = np.sqrt(((expected - weight) ** 2).sum() / (weight**2).sum())
        assert layer.sums.relative_rmse == pytest.approx(error, rel=1e-5)
        assert layer.sums.sqnr_db == pytest.approx(-20 * np.log10(error), rel=1e-4)
    assert np.array_equal(result.raw("norm.weight"), source.raw("norm.weight"))
    assert set(report.kept) == {"model.embed_tokens.weight", "norm.weight"}


def test_calibration_lowers_the_output_error(model):
    path, inputs = model
    errors = {
        method: quantize_file(path, Settings(format="int4-g32", method=method), calibration=inputs)
        for method in ("rtn", "gptq")
    }
    assert all(layer.calibrated for layer in errors["gptq"].layers)
    assert errors["gptq"].total.output_error2 < 0.8 * errors["rtn"].total.output_error2
    assert errors["gptq"].total.error2 > errors["rtn"].total.error2


def test_an_interrupted_run_resumes_to_the_same_file(model, tmp_path, monkeypatch):
    path, inputs = model
    settings = Settings(format="nvfp4", method="gptq")
    whole = tmp_path / "whole.safetensors"
    expected = quantize_file(path, settings, calibration=inputs, output=whole)
    out = tmp_path / "o.safetensors"
    real, calls = checkpoint.quantize_layer, []

    def stops(file, info, *rest):
        calls.append(info.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(file, info, *rest)

    monkeypatch.setattr(checkpoint, "quantize_layer", stops)
    with pytest.raises(KeyboardInterrupt):
        quantize_file(path, settings, calibration=inputs, output=out)
    assert not out.exists()
    assert (tmp_path / "o.safetensors.partial").exists()
    other = Settings(format="mxfp4", method="gptq")
    with pytest.raises(InvalidInput, match="other settings"):
        quantize_file(path, other, calibration=inputs, output=out, resume=True)
    resumed = quantize_file(path, settings, calibration=inputs, output=out, resume=True)
    assert calls[3:] == calls[2:3]  # only the layer that was interrupted
    assert out.read_bytes() == whole.read_bytes()
    assert resumed.rows() == expected.rows()
    assert not (tmp_path / "o.safetensors.progress").exists()


def test_a_refused_tensor_leaves_no_half_file(tmp_path):
    rng = np.random.default_rng(6)
    good = rng.standard_normal((64, 128)).astype(np.float32)
    bad = good.copy()
    bad[3, 7] = np.inf
    out = tmp_path / "o.safetensors"
    first = write(tmp_path / "first.safetensors", {"a.weight": bad, "b.weight": good})
    with pytest.raises(InvalidInput, match=r"\(3, 7\) is inf") as error:
        quantize_file(first, Settings(format="nvfp4"), output=out)
    assert "--resume" not in str(error.value)
    assert list(tmp_path.glob("o.*")) == []
    later = write(tmp_path / "later.safetensors", {"a.weight": good, "b.weight": bad})
    with pytest.raises(InvalidInput, match=r"Finished layers \(1\) are in .*--resume"):
        quantize_file(later, Settings(format="nvfp4"), output=out)
    write(later, {"a.weight": good, "b.weight": good})
    quantize_file(later, Settings(format="nvfp4"), output=out, resume=True)
    assert [p.name for p in tmp_path.glob("o.*")] == ["o.safetensors"]


def test_a_killed_run_resumes_to_the_same_file(tmp_path):
    """The process is killed outright between two layers; the next one finishes its work."""
    rng = np.random.default_rng(5)
    tensors = {
        f"layers.{i}.proj.weight": rng.standard_normal((96, 128)).astype(np.float32)
        for i in range(12)
    }
    path, out = write(tmp_path / "m.safetensors", tensors), tmp_path / "o.safetensors"
    journal = tmp_path / "o.safetensors.progress"
    options = ["--format", "int4-g32", "--method", "learned-rounding", "--json"]
    command = [sys.executable, "-m", "isoflop", "quantize", str(path), *options, "--output"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, str(out)], **quiet)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if journal.exists() and journal.read_text().count("\n") >= 2:
            process.kill()
            break
        time.sleep(0.002)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    done = journal.read_text().splitlines()
    assert not out.exists()
    assert 2 <= len(done) < 12
    subprocess.run([*command, str(out), "--resume"], check=True, **quiet)
    whole = tmp_path / "whole.safetensors"
    quantize_file(path, Settings(format="int4-g32", method="learned-rounding"), output=whole)
    assert out.read_bytes() == whole.read_bytes()
    assert not journal.exists()


def test_calibration_streams_from_the_file(model, monkeypatch):
    path, inputs = model
    info = SafetensorsFile(path).tensors["layers.0.proj.weight"]
    whole = checkpoint.CalibrationFile(inputs).of(info)
    monkeypatch.setattr(checkpoint, "CALIBRATION_ROWS", 37)
    monkeypatch.setattr(SafetensorsFile, "float32", None)  # never the whole tensor
    streamed = checkpoint.CalibrationFile(inputs).of(info)
    assert np.allclose(streamed.hessian, whole.hessian, rtol=1e-12)
    assert np.array_equal(streamed.amax, whole.amax)
    assert streamed.rows == whole.rows == 300


def test_outliers_are_mapped(model):
    path, _ = model
    layer = quantize_file(path, Settings(format="int8")).layers[2]
    assert layer.outlier_channels[0] == 5
    assert layer.peak_over_rms > 6


def corrupt(path, tmp_path, change):
    bad = tmp_path / "bad.safetensors"
    raw = bytearray(path.read_bytes())
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    data = change(header, bytes(raw[8 + length :]))
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    bad.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return bad


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda h, d: d[:-5], "announces"),
        (lambda h, d: (h["norm.weight"].update(shape=[65]), d)[1], "needs 260"),
        (lambda h, d: (h["norm.weight"].update(dtype="F7"), d)[1], "unknown type F7"),
        (lambda h, d: (h["norm.weight"].pop("shape"), d)[1], "incompletely"),
        (lambda h, d: (h.pop("norm.weight"), d)[1], "announces"),
        (
            lambda h, d: (h["norm.weight"].update(data_offsets=[0, 256]), d)[1],
            "gap or overlap",
        ),
    ],
)  # fmt: skip
def test_broken_files_say_what_is_wrong(model, tmp_path, change, why):
    with pytest.raises(InvalidInput, match=why):
        SafetensorsFile(corrupt(model[0], tmp_path, change))


def test_files_that_are_none(tmp_path):
    path = tmp_path / "x.safetensors"
    for content, why in (
        (b"abc", "too short"), (struct.pack("<Q", 1 << 60) + b"{}", "too short"),
        (struct.pack("<Q", 2) + b"[]", "no JSON object"),
        (struct.pack("<Q", 3) + b"{x}", "not JSON"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=why):
            SafetensorsFile(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        SafetensorsFile(tmp_path / "none.safetensors")


def test_wrong_requests(model, tmp_path):
    path, _ = model
    with pytest.raises(InvalidInput, match="No tensor"):
        quantize_file(path, Settings(format="nvfp4", include="nothing"))
    with pytest.raises(InvalidInput, match="no regular expression"):
        Settings(format="nvfp4", include="(")
    with pytest.raises(UnknownName):
        Settings(format="nvfp5")
    with pytest.raises(InvalidInput, match="is the input"):
        quantize_file(path, Settings(format="nvfp4"), output=path)
    with pytest.raises(InvalidInput, match=r"layers\.0.*do not divide into blocks of 48"):
        quantize_file(path, Settings(format="int4-g48"))
    with pytest.raises(InvalidInput, match="cannot be written packed"):
        quantize_file(path, Settings(format="bf16", packed=True), output=tmp_path / "p")
    narrow = {"layers.0.proj": np.ones((3, 63), np.float32)}
    wrong = write(tmp_path / "w.safetensors", narrow)
    with pytest.raises(InvalidInput, match="takes 64"):
        quantize_file(path, Settings(format="nvfp4", method="gptq"), calibration=wrong)
    bad = np.ones((40, 64), np.float32)
    bad[2, 3] = np.nan
    with pytest.raises(InvalidInput, match=r"'a\.weight'.*\(2, 3\) is nan"):
        quantize_file(write(tmp_path / "n", {"a.weight": bad}), Settings(format="nvfp4"))


def test_a_failed_run_leaves_no_output(model, tmp_path):
    bad = np.ones((40, 64), np.float32)
    bad[0, 0] = np.inf
    source = write(tmp_path / "bad", {"a.weight": np.ones((40, 64), np.float32), "b.weight": bad})
    with pytest.raises(InvalidInput, match=r"b\.weight"):
        quantize_file(source, Settings(format="nvfp4"), output=tmp_path / "o")
    assert not (tmp_path / "o").exists()
    with pytest.raises(IsoflopError, match="cannot be written"):
        Writer(tmp_path / "no" / "where", {}, {})


def test_allocation_is_the_optimum():
    rng = np.random.default_rng(0)
    for _ in range(20):
        errors = np.sort(rng.random((4, 3)), axis=1)
        sizes = -np.sort(-rng.integers(1, 20, (4, 3)), axis=1)
        budget = int(rng.integers(sizes.min(1).sum(), sizes.max(1).sum() + 1))
        found = allocate(errors, sizes, budget)
        best = min(
            sum(errors[i, c] for i, c in enumerate(choice))
            for choice in itertools.product(range(3), repeat=4)
            if sum(sizes[i, c] for i, c in enumerate(choice)) <= budget
        )
        assert found.error == pytest.approx(best)
        assert found.storage_bytes <= budget
    with pytest.raises(DoesNotFit, match="Raise the budget"):
        allocate(np.ones((1, 1)), np.full((1, 1), 5), 4)


def test_mixed_precision_spends_bits_where_they_help(model):
    path, _ = model
    names = ["int4-g32", "int8-g32"]
    runs = [[quantize_file(path, Settings(format=name))] for name in names]
    chosen = choose(names, runs, bits_per_weight=6.5)
    assert chosen.bits_per_weight <= 6.5
    assert set(chosen.formats.values()) == set(names)
    assert chosen.formats["layers.2.proj.weight"] == "int8-g32"  # the one with outliers
    rows = totals(names, runs)
    assert [r["undominated"] for r in rows] == [True, True]
    assert pareto([(1, 3), (2, 2), (2.5, 2), (3, 1)]) == [0, 1, 3]
    with pytest.raises(DoesNotFit):
        choose(names, runs, bits_per_weight=3)


def test_sharded_checkpoints_by_folder_and_by_index(tmp_path, capsys):
    from isoflop.cli import main

    rng = np.random.default_rng(0)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    parts = []
    for i, width in enumerate((64, 70)):
        path = source / f"part-{i}.safetensors"
        write(path, {f"layer.{i}.weight": rng.standard_normal((64, width)).astype(np.float32)})
        parts.append(path)
    index = checkpoint.write_index(parts)
    assert checkpoint.files_of(source) == checkpoint.files_of(index) == parts
    # The second part's rows are refused before the first part is written.
    with pytest.raises(SystemExit):
        main(["quantize", str(index), "--format", "int4-g64", "--output", str(target)])
    assert "'layer.1.weight'" in capsys.readouterr().err
    assert not target.exists()
    main(["quantize", str(source), "--format", "int8", "--output", str(target), "--json"])
    written = json.loads((target / index.name).read_text())
    assert written["weight_map"] == json.loads(index.read_text())["weight_map"]
    parts[1].unlink()
    with pytest.raises(InvalidInput, match=r"1 of the 2 files .* absent: part-1"):
        checkpoint.files_of(source)
    index.write_text("{}")
    with pytest.raises(InvalidInput, match="weight_map"):
        checkpoint.files_of(index)
