"""Sweeps: every combination, resumed after an interruption, refused for another sweep's file."""

import json

from isoflop.cli import main
from tests.test_cli import fails

BASE = ["sweep", "llama-3.1-8b", "--on", "h100-sxm", "--requests", "40", "--workers", "1"]


def test_sweep_resumes_where_it_stopped(capsys, tmp_path):
    out = tmp_path / "sweep.jsonl"
    arguments = [*BASE, "--rate", "2,20", "--max-sequences", "4,64", "--out", str(out), "--json"]
    main(arguments)
    rows = json.loads(capsys.readouterr().out)
    assert [(r["rate"], r["max_sequences"]) for r in rows] == [(2, 4), (2, 64), (20, 4), (20, 64)]
    assert rows[2]["ttft_s"]["p99"] > rows[3]["ttft_s"]["p99"]
    lines = out.read_text().splitlines()
    assert len(lines) == 5
    # Cut the file in the middle of a line, as an interruption would.
    kept = "\n".join(lines[:3]) + "\n" + lines[3][:20]
    out.write_text(kept)
    main(arguments)
    assert json.loads(capsys.readouterr().out) == rows
    assert out.read_text().startswith(kept)


def test_what_cannot_run_says_why(capsys, tmp_path):
    main([*BASE, "--plan", "tp1;tp3", "--rate", "5", "--out", str(tmp_path / "s.jsonl")])
    out = capsys.readouterr().out
    assert "does not divide" in " ".join(out.split())


def test_bad_input_is_a_sentence(capsys, tmp_path):
    out = str(tmp_path / "s.jsonl")
    assert "not a number" in fails(capsys, *BASE, "--rate", "fast", "--out", out)
    assert "above zero" in fails(capsys, *BASE, "--rate", "-1", "--out", out)
    assert "cannot be written" in fails(capsys, *BASE, "--rate", "1", "--out", "/no/where/s.jsonl")
    main([*BASE, "--rate", "1", "--out", out])
    capsys.readouterr()
    assert "other settings" in fails(capsys, "sweep", "llama-3.1-8b", "--on", "h100-sxm", "--rate",
                                     "1", "--out", out, "--requests", "41")  # fmt: skip
