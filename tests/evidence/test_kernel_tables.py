"""Kernel tables in CSV: layouts, devices, refusals, and what is left of unseen devices' errors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from isoflop.cli import main
from isoflop.cost.kernels import DeviceShape
from isoflop.cost.kernels.attention import decode_time_s
from isoflop.cost.kernels.calibration import load_kernels
from isoflop.errors import InvalidInput
from isoflop.evidence.kernel_tables import device_of, kernel_parts, predict_kernel_table, unpriced
from isoflop.hardware import load_accelerator
from tests.shared_data import data as shared


def written(path, text: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_attention_by_file_name_is_the_kernel_model_itself(tmp_path):
    path = written(tmp_path / "mha/decode/h20/32-8-128.csv",
                   "dtype,kv_dtype,batch_size,kv_len,latency_us,mfu\nbf16,bf16,8,4096,60.0,0.1\n"
                   "fp8,fp8,8,4096,40.0,0.1\n")  # fmt: skip
    first, second = predict_kernel_table(path) or []
    device = load_accelerator("h20")
    exact = decode_time_s(load_kernels("hopper")[0].decode, DeviceShape.of(device), batch=8,
                          context=4096, heads=32, kv_heads=8, head_dim=128,
                          streamed=False)  # fmt: skip
    assert first.predicted == pytest.approx(float(exact))
    assert first.label == "analytic"
    assert first.low < first.predicted < first.high
    assert second.predicted is None
    assert "8-bit" in second.reason


def test_heads_of_latent_attention_are_read_whole(tmp_path):
    text = "dtype,seq_len,latency_us,mfu\nbf16,4096,1100,0.6\n"
    wide, narrow = (
        kernel_parts(written(tmp_path / f"mla/prefill/h800/{heads}-128-64.csv", text))
        for heads in (128, 8)
    )
    assert wide[0].predicted[0] > 10 * narrow[0].predicted[0]


@pytest.mark.parametrize(("name", "text"), [
    ("matmul_MI210.csv", "64, 12288, 12288, 0.19ms, 100Tflops\n"),
    ("gemm/h20/data.csv", "m,k,n,latency_us,mfu\n64,7168,1536,20.0,0.1\n"),
    ("h100_dgx/send_recv.csv", ",time_stats.send_recv.median,num_workers,size,collective,"
                               "devices_per_node\n0,0.02,2,65536,send_recv,2\n"),
    ("gelu_A100.csv", "268435456, 379.5\n"),
])  # fmt: skip
def test_layouts_are_recognised(tmp_path, name, text):
    (row,) = predict_kernel_table(written(tmp_path / name, text)) or []
    assert row.predicted == pytest.approx(row.case.measured, rel=1.5)


def test_launch_bound_and_networked_rows_say_why_they_are_not_priced(tmp_path):
    (short,) = predict_kernel_table(written(tmp_path / "gelu_A100.csv", "1024, 0.0213\n")) or []
    assert "launch" in short.reason
    text = (",time_stats.all_reduce.median,num_workers,size,collective,devices_per_node\n"
            "0,0.5,16,65536,all_reduce,8\n")  # fmt: skip
    (far,) = predict_kernel_table(written(tmp_path / "a100_dgx/all_reduce.csv", text)) or []
    assert "several nodes" in far.reason


def test_the_device_comes_from_the_path_or_the_option(tmp_path):
    assert device_of(tmp_path / "network/a100_dgx/all_reduce.csv").id == "a100-80gb-sxm"
    assert device_of(tmp_path / "x.csv", "h20").id == "h20"
    with pytest.raises(InvalidInput, match="--on"):
        device_of(tmp_path / "attention.csv")


def test_refusals_are_one_sentence_and_other_tables_go_on(tmp_path, capsys):
    for name in ("gdn/h20/4-16-128-64-128.csv", "transformer_A100.csv"):
        path = written(tmp_path / name, "batchsize,conv,gdn_update\n1,8,74\n")
        with pytest.raises(SystemExit) as caught:
            main(["validate", str(path)])
        assert caught.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert predict_kernel_table(written(tmp_path / "other.csv", "a,b\n1,2\n")) is None
    bad = written(tmp_path / "gemm/h20/data.csv", "m,k,n,latency_us,mfu\n64,x,1536,20.0,0.1\n")
    with pytest.raises(InvalidInput, match="not a number"):
        predict_kernel_table(bad)


@pytest.mark.parametrize(("name", "most"), [
    # Median error in %, none of these devices or libraries fitted.
    ("infersim/bench_data/gemm/h20/data.csv", 20.0),
    ("infersim/bench_data/mha/prefill/h20/64-8-128.csv", 12.0),
    ("infersim/bench_data/mha/decode/h800/32-8-128.csv", 12.0),
    ("infersim/bench_data/mla/decode/h20/128-512-64.csv", 25.0),
    ("llmcompass/real_hardware/matmul_A100.csv", 8.0),
    ("vidur/network/h100_dgx/all_reduce.csv", 15.0),
])  # fmt: skip
def test_unseen_tables(capsys, name, most):
    main(["validate", str(shared("operators") / name), "--json"])
    out = json.loads(capsys.readouterr().out)
    whole = out["summary"][-1]
    assert whole["median_abs_pct"] < most < 0.3 * whole["baseline_mean_abs_pct"] + most
    assert all(r["predicted"] is not None or r["reason"] for r in out["rows"])


def test_every_published_table_is_priced_or_refused():
    folder = shared("operators")
    for source in ("vidur", "llmcompass", "infersim", "frontier"):
        for path in (folder / source).rglob("*.csv"):
            if unpriced(path):
                with pytest.raises(InvalidInput, match="cannot be priced"):
                    kernel_parts(path)
                continue
            parts = kernel_parts(path, "a800-80gb-sxm" if source == "frontier" else "")
            assert parts, path
            for part in parts:
                ok = np.isfinite(part.predicted)
                assert np.all(part.predicted[ok] > 0), path
                assert ok.all() or part.reason, path
