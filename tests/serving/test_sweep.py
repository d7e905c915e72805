"""Sweeps: every combination, resumed after an interruption, refused for another sweep's file."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

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


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system kills in another way")
def test_a_killed_sweep_loses_nothing_that_was_written(capsys, tmp_path):
    out = tmp_path / "sweep.jsonl"
    rates = ",".join(str(r) for r in range(1, 61))
    arguments = [*BASE, "--rate", rates, "--out", str(out), "--json"]
    process = subprocess.Popen([sys.executable, "-m", "isoflop", *arguments], env=os.environ,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < 120:
        if out.exists() and out.read_bytes().count(b"\n") > 4:
            break
        time.sleep(0.005)
    process.kill()  # SIGKILL: no handler runs, no file is closed
    process.wait()
    kept = out.read_text()
    done = kept.count("\n") - 1
    assert 4 <= done < 60, "killed before the start or after the end"
    main(arguments)
    rows = json.loads(capsys.readouterr().out)
    assert [r["rate"] for r in rows] == list(range(1, 61))
    assert not [r for r in rows if "error" in r]
    # What was there is not simulated again, nor written again.
    assert out.read_text().startswith(kept)
    results = [json.loads(line) for line in out.read_text().splitlines() if line.endswith("}")][1:]
    assert sorted(r["rate"] for r in results) == list(range(1, 61))


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


def test_a_dask_cluster_gives_what_this_machine_gives(capsys, tmp_path):
    distributed = pytest.importorskip("distributed", reason="the cluster extra is not installed")
    arguments = [*BASE, "--rate", "2,20", "--max-sequences", "4,64", "--json"]
    main([*arguments, "--out", str(tmp_path / "here.jsonl")])
    here = json.loads(capsys.readouterr().out)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False,
                                  dashboard_address=None) as cluster:  # fmt: skip
        address = cluster.scheduler_address
        main([*arguments, "--cluster", address, "--out", str(tmp_path / "there.jsonl")])
    assert json.loads(capsys.readouterr().out) == here
