import json

import numpy as np
import pytest

from isoflop.cli import main
from isoflop.evidence.predict import predict_cases
from isoflop.evidence.published import published_cases
from isoflop.evidence.read import read_cases
from isoflop.evidence.serving_rows import serving_case
from isoflop.evidence.silicon_rows import silicon_cases
from isoflop.evidence.summary import summarise
from tests.shared_data import data


def held_out_errors(path: str, metric: str = "tpot_s") -> tuple[np.ndarray, float]:
    items = [
        p
        for p in predict_cases(read_cases(data(path)))
        if p.case.metric == metric and p.case.role == "check" and p.predicted is not None
    ]
    error = np.array([abs(p.predicted / p.case.measured - 1) for p in items])
    inside = np.mean([p.low <= p.case.measured <= p.high for p in items])
    return error, float(inside)


def test_time_per_token_on_rows_never_fitted():
    error, inside = held_out_errors("serving/silicon_agg.csv")
    assert len(error) > 1000
    assert np.median(error) <= 0.12
    assert error.mean() <= 0.20
    assert 0.85 <= inside <= 0.95


def test_time_to_first_token_on_rows_never_fitted():
    error, inside = held_out_errors("serving/silicon_agg.csv", "ttft_s")
    assert np.median(error) <= 0.25
    assert error.mean() <= 0.40
    assert 0.85 <= inside <= 0.965


def test_published_time_per_token():
    error, inside = held_out_errors("serving/measurements.csv")
    assert np.median(error) <= 0.10
    assert error.mean() <= 0.15
    assert inside >= 0.85


def test_no_row_is_dropped():
    path = data("serving/measurements.csv")
    cases = read_cases(path)
    lines = sum(1 for _ in path.open()) - 1
    assert len(cases) == lines
    summary = summarise(predict_cases(cases[:200]))
    assert len(summary.predictions()) == 200
    assert all(p["predicted"] is not None or p["reason"] for p in summary.predictions())


def test_the_projects_own_figures_are_priced():
    items = predict_cases(published_cases())
    assert len(items) >= 20
    assert all(p.predicted for p in items)
    error = np.array([abs(p.predicted / p.case.measured - 1) for p in items])
    assert np.median(error) < 0.2


def test_ranks_recorded_twice_are_read_as_they_ran():
    row = {
        "silicon_data_source": "silicon_concurrency=4",
        "backend": "trtllm",
        "model_path": "openai/gpt-oss-120b",
        "system": "h200_sxm",
        "precision": "fp4",
        "isl": "1024",
        "osl": "1024",
        "gemm_quant_mode": "nvfp4",
        "moe_quant_mode": "nvfp4",
        "batch_size": "4",
        "tp_size": "64",
        "pp_size": "1",
        "attention_dp_size": "1.0",
        "moe_tp_size": "8",
        "moe_ep_size": "8",
        "silicon_ttft_ms": "89.7",
        "silicon_tpot_ms": "4.3",
    }
    case = silicon_cases(2, row)[0]
    assert (case.plan.tensor, case.plan.expert) == (8, 8)
    assert case.plan.formats.experts == "mxfp4"


def test_json_has_the_promised_keys(capsys):
    main(["validate", "--json"])
    out = json.loads(capsys.readouterr().out)
    assert set(out) == {"summary", "rows"}
    assert {
        "source",
        "rows",
        "supported",
        "median_abs_pct",
        "mean_abs_pct",
        "p90_abs_pct",
        "bias_pct",
        "coverage_90",
        "baseline_mean_abs_pct",
    } <= set(out["summary"][0])
    assert {
        "line",
        "source",
        "metric",
        "measured",
        "predicted",
        "low",
        "high",
        "label",
        "role",
        "reason",
    } == set(out["rows"][0])


@pytest.mark.parametrize(
    ("text", "words"),
    [("a,b\n1,2\n", "schema"), ("", "is empty"), (None, "cannot be read")],
)
def test_bad_files_get_one_sentence(tmp_path, capsys, text, words):
    path = tmp_path / "m.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as caught:
        main(["validate", str(path)])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_the_first_vllm_engine_on_models_never_fitted():
    items = [
        p
        for p in predict_cases(read_cases(data("serving/measurements.csv")))
        if p.case.engine == "vllm-v0" and p.case.metric == "tpot_s" and p.case.role == "check"
    ]
    assert len(items) > 40
    assert {p.case.model for p in items} == {"Llama-2-7B", "OPT-2.7B"}
    assert np.mean([abs(p.predicted / p.case.measured - 1) for p in items]) <= 0.10


def test_timed_arrivals_are_simulated():
    items = [
        p for p in predict_cases(read_cases(data("serving/measurements.csv"))) if p.case.arrivals
    ]
    assert len(items) == 9
    # Limits stated on one row of a run hold for its other rows.
    assert {p.case.arrivals.max_sequences for p in items} == {128, 256}
    assert np.median([abs(p.predicted / p.case.measured - 1) for p in items]) <= 0.15


def test_release_chooses_the_engine():
    from isoflop.cost.engines import engine_of

    assert engine_of("vLLM", "0.5.2.dev1210") == "vllm-v0"
    assert engine_of("vLLM", "0.19.0") == "vllm"
    assert engine_of("SGLang", "0.5.9") == "sglang"


def test_stated_lengths_may_be_the_longest():
    row = {
        "source": "x", "engine": "vLLM", "engine_version": "0.17", "model": "Llama-3.1-8B",
        "precision": "bf16", "gpu": "H100", "n_gpus": "1", "tp": "1", "pp": "1", "ep": "1",
        "input_len": "1000", "output_len": "500", "batch_or_concurrency": "8",
        "metric": "tpot_ms", "value": "9", "note": "lengths from 0.8",
    }  # fmt: skip
    case = serving_case(2, row)
    assert (case.prompt_tokens, case.output_tokens) == (900.0, 450.0)
    # Uniform between 400 and 500: deviation 100 / sqrt(12).
    assert case.output_cv == pytest.approx(100 / np.sqrt(12) / 450)
    assert serving_case(2, row | {"note": ""}).prompt_tokens == 1000.0


SILICON = {
    "silicon_data_source": "x", "backend": "vllm", "backend_version": "0.17",
    "model_path": "openai/gpt-oss-120b", "system": "h100_sxm", "precision": "fp4", "isl": "1024",
    "osl": "1024", "batch_size": "8", "tp_size": "2", "pp_size": "1", "attention_dp_size": "1",
    "moe_tp_size": "2", "moe_ep_size": "1", "silicon_ttft_ms": "60", "silicon_tpot_ms": "6",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tp_size", "two", "its tp_size 'two' is not a whole number"),
        ("tp_size", "1.5", "its tp_size '1.5' is not a whole number"),
        ("moe_ep_size", "-1", "its moe_ep_size '-1' is not a whole number"),
        ("pp_size", "inf", "its pp_size 'inf' is not a whole number"),
        ("isl", "nan", "its isl 'nan' is not a positive number"),
        ("osl", "-5", "its osl '-5' is not a positive number"),
        ("batch_size", "0", "its batch_size '0' is not a positive number"),
    ],
)
def test_one_bad_field_is_a_reason_of_its_row(name, text, said):
    cases = silicon_cases(2, SILICON | {name: text})
    assert all(said in c.reason for c in cases)
    assert len(cases) == 2


def test_degrees_left_empty_are_one():
    empty = dict.fromkeys(("pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size"), "")
    cases = silicon_cases(2, SILICON | empty)
    assert [c.reason for c in cases] == ["", ""]
    assert all(p.predicted for p in predict_cases(cases))


@pytest.mark.parametrize("value", ["nan", "-3", "0", "inf", ""])
def test_a_value_that_is_none_is_not_compared(value):
    row = {
        "source": "x", "engine": "vLLM", "model": "Llama-3.1-8B", "precision": "bf16",
        "gpu": "H100", "tp": "1", "pp": "1", "ep": "1", "input_len": "1000", "output_len": "500",
        "batch_or_concurrency": "8", "metric": "tpot_ms", "value": value, "note": "",
    }  # fmt: skip
    assert "is not a positive number" in serving_case(2, row).reason
    assert "is not a whole number" in serving_case(2, row | {"value": "9", "tp": "two"}).reason


def test_training_rows_have_the_keys_of_serving_rows(tmp_path, capsys):
    """One schema for both: the same keys in the summary and in the rows."""
    found = []
    for name in ("training/measurements.csv", "serving/measurements.csv"):
        lines = data(name).read_text().splitlines()[:4]
        path = tmp_path / name.replace("/", "-")
        path.write_text("\n".join(lines) + "\n")
        main(["validate", str(path), "--json"])
        found.append(json.loads(capsys.readouterr().out))
    training, serving = found
    assert set(training) == set(serving) == {"summary", "rows"}
    for part in ("summary", "rows"):
        assert {frozenset(r) for r in training[part]} == {frozenset(r) for r in serving[part]}
    assert any(r["predicted"] for r in training["rows"])
