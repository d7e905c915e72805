import json

import pytest

from isoflop.cli import main


def run(capsys, *arguments):
    main(["training", "recompute", *arguments])
    return capsys.readouterr().out


def test_a_model_of_its_own_operators(capsys):
    out = run(capsys, "--model", "llama-3.2-1b", "--sequence", "1024", "--json")
    found = json.loads(out)
    assert found["nodes"] > 300
    plain, root, log = found["rows"]
    assert plain["peak_bytes"] > 2 * root["peak_bytes"]
    assert plain["seconds"] < root["seconds"] < log["seconds"]


def test_long_chains_leave_the_optimum_out(capsys):
    out = run(capsys, "--layers", "100")
    assert "up to 80 layers" in out


@pytest.mark.parametrize("arguments", [
    ("--budget", "0"), ("--layers", "1"), ("--model", "llama-3.1-8b", "--sequence", "0"),
    ("--seconds", "-1"), ("--model", "no-such-model"),
])  # fmt: skip
def test_wrong_input_is_a_sentence(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        run(capsys, *arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
