import json

import pytest

from isoflop.cli import main
from isoflop.training.published import nearest_run, published_runs


def test_every_run_states_one_figure_and_its_source():
    runs = published_runs()
    assert len(runs) >= 14
    for run in runs:
        stated = (
            run.model_flop_utilization, run.hardware_flop_utilization, run.tokens_per_s_per_device
        )  # fmt: skip
        assert sum(bool(x) for x in stated) == 1
        assert 0 <= max(stated[:2]) < 0.7
        assert "arXiv" in run.citation() or "documentation" in run.citation()
        assert run.figure


@pytest.mark.parametrize(
    ("parameters", "active", "device", "devices", "sequence", "expected"),
    [
        (405e9, 405e9, "h100-sxm", 8192, 8192, "llama3-405b-8k"),
        (405e9, 405e9, "h100-sxm", 16384, 131072, "llama3-405b-long"),
        (671e9, 37e9, "h800", 2048, 4096, "deepseek-v3"),
        (540e9, 540e9, "tpu-v4", 6144, 2048, "palm-540b"),
        (1.3e9, 1.3e9, "a100-80gb-sxm", 32, 2048, "megatron-2021-1-7b"),
    ],
)
def test_the_run_itself_is_the_nearest(parameters, active, device, devices, sequence, expected):
    assert nearest_run(parameters, active, device, devices, sequence).id == expected


def test_plan_and_catalog_show_it(capsys):
    main(["plan", "llama-3.1-8b", "--on", "64xdgx-h100", "--json"])
    assert json.loads(capsys.readouterr().out)["nearest_run"]["figure"]
    main(["catalog", "list", "runs", "--json"])
    assert len(json.loads(capsys.readouterr().out)) >= 14


def test_fleets_are_compared(capsys):
    fleets = "8xdgx-h100,64xdgx-h100,128xdgx-h100"
    main(["plan", "llama-3.1-70b", "--on", fleets, "--tokens", "100B", "--json"])
    rows = json.loads(capsys.readouterr().out)["fleets"]
    assert rows[0]["plan"] is None
    assert "does not fit" in rows[0]["reason"]
    assert rows[1]["undominated"]
    assert rows[2]["undominated"]  # quicker and dearer
    assert rows[2]["days"] < rows[1]["days"]
    assert rows[2]["usd"] >= 0.99 * rows[1]["usd"]
