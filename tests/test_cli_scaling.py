"""`isoflop fit`, `spend` and `laws` from the command line."""

import json

import numpy as np
import pytest

from isoflop.cli import main
from tests.test_cli import fails


def out_of(capsys, *arguments: str) -> dict:
    main([*arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def test_fit_then_spend(capsys, tmp_path):
    saved = tmp_path / "fit.json"
    out = out_of(capsys, "fit", "demo", "--bootstrap", "200", "--out", str(saved))
    assert {"law", "params", "se", "ci95", "objective", "runs", "seconds"} <= out.keys()
    assert out["runs"] == 48
    low, high = out["ci95"]["alpha"]
    assert low < 0.3478 < high
    spent = out_of(capsys, "spend", "1e24", "--law", str(saved), "--runs", "demo")
    assert {"params", "tokens", "loss", "interval95"} <= spent.keys()
    assert 6 * spent["params"] * spent["tokens"] == pytest.approx(1e24, rel=1e-9)
    assert spent["next_runs"]


def test_a_printed_fit_is_a_fit(capsys, tmp_path):
    """`fit --json > fit.json` serves `spend` as `--out` does, with an interval about as wide."""
    whole, printed = tmp_path / "whole.json", tmp_path / "printed.json"
    fit = out_of(capsys, "fit", "demo", "--bootstrap", "1200", "--out", str(whole))
    assert 0 < len(fit["draws"]) < 1200
    printed.write_text(json.dumps(fit))
    ends = []
    for path in (whole, printed):
        found = out_of(capsys, "spend", "1e21", "--law", str(path))
        ends.append(found["interval95"]["params"])
    assert ends[1] == pytest.approx(ends[0], rel=0.1)


def test_fit_prints_choices_and_notes(capsys):
    main(["fit", "demo", "--bootstrap", "100", "--hold-out"])
    out = capsys.readouterr().out
    for words in ("standard error", "approach 2", "Huber sum", "Held out"):
        assert words in out


def test_spend_on_a_fleet_for_served_tokens(capsys):
    main(["spend", "30 days", "--on", "512xh100-sxm", "--inference-tokens", "2T"])
    out = capsys.readouterr().out
    for words in ("plan tp", "90% between", "over the MFU range", "lifetime compute"):
        assert words in out
    main(["spend", "30 days", "--on", "512xh100-sxm", "--mfu", "0.4"])
    assert "40% of 989" in capsys.readouterr().out


def test_laws_list_show_compare(capsys):
    assert len(out_of(capsys, "laws", "list")["forms"]) >= 35
    shown = out_of(capsys, "laws", "show", "hoffmann-2022")
    assert shown["checks"][0]["evaluated"] == pytest.approx(4.036e10, rel=0.002)
    rows = out_of(capsys, "laws", "compare", "1e23")["laws"]
    assert {"besiroglu-2024", "hoffmann-2022"} <= {r["law"] for r in rows}
    main(["laws", "show", "farseer"])
    assert "exponents that change" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit", "no-such-file.csv"], "cannot be read"),
        (["fit", "demo", "--law", "chinchila"], "chinchilla"),
        (["fit", "demo", "--n", "size"], "no column 'size'"),
        (["fit", "demo", "--drop-worst", "45"], "add 4 more"),
        (["fit", "demo", "--bootstrap", "-1"], "0 or more"),
        (["spend", "a lot"], "not a budget"),
        (["spend", "1e24", "--law", "hofmann"], "hoffmann-2022"),
        (["spend", "1e24", "--law", "kumar-2024-ptq"], "says nothing about"),
        (["spend", "1e24", "--inference-tokens", "many"], "many"),
        (["laws", "show", "chinchila"], "There is no published law"),
    ],
)
def test_bad_input_is_a_sentence(capsys, arguments, says):
    assert says in fails(capsys, *arguments)


def test_fit_of_some_lines(capsys, tmp_path):
    """Two data sets in one file: each is fitted apart."""
    n, streams = np.meshgrid(np.geomspace(1e8, 1e10, 6), [1.0, 2.0, 4.0, 8.0])
    lines = ["data,num_params,parallel,loss"]
    for name, scale in (("code", 1.0), ("text", 2.0)):
        loss = scale * ((2e8 / (n * (0.4 * np.log(streams) + 1))) ** 0.2 + 0.7)
        lines += [f"{name},{a},{p},{y}" for a, p, y in zip(n.flat, streams.flat, loss.flat)]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(lines) + "\n")
    given = ["fit", str(path), "--law", "parallel-streams", "--bootstrap", "0"]
    apart = out_of(capsys, *given, "--where", "data=text")
    assert apart["runs"] == 24
    assert apart["params"]["k"] == pytest.approx(0.4, rel=1e-3)
    assert out_of(capsys, *given)["noise"] > 0.1
    assert "Its values are code, text" in fails(capsys, *given, "--where", "data=speech")
    assert "no column 'set'" in fails(capsys, *given, "--where", "set=text")


def test_shapes_of_saved_fits(capsys, tmp_path):
    lines = ["patch,flop,error"]
    for patch, a, b, c in ((16, 8e4, 0.32, 0.09), (8, 6e5, 0.36, 0.06)):
        for flop in np.geomspace(1e16, 2e19, 10):
            wave = 1 + 0.01 * np.sin(np.log(flop) * 7)
            lines.append(f"{patch},{flop:.6g},{(a * flop**-b + c) * wave:.6f}")
    runs = tmp_path / "runs.csv"
    runs.write_text("\n".join(lines))
    saved = [tmp_path / f"patch{p}.json" for p in (16, 8)]
    for path in saved:
        main(["fit", str(runs), "--law", "vision-shape", "--where", path.stem.replace("h", "h="),
              "--c", "flop", "--loss", "error", "--bootstrap", "60", "--out", str(path)
              ])  # fmt: skip
    capsys.readouterr()
    found = out_of(capsys, "laws", "shapes", *map(str, saved))
    assert [s["shape"] for s in found["segments"]] == ["patch16", "patch8"]
    assert found["error"] <= found["single_error"]
    main(["laws", "shapes", *map(str, saved), "--budget", "1e18"])
    assert "keeps its error" in capsys.readouterr().out
    assert "at least two" in fails(capsys, "laws", "shapes", str(saved[0]))
