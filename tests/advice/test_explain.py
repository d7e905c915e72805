"""`explain`: short and long runs, chunks after a prefix, phases a model has."""

from __future__ import annotations

import json

import pytest

from isoflop.cli import main


def explained(capsys, *flags: str) -> dict:
    main(["explain", "llama-3.1-8b", "--on", "h100-sxm", *flags, "--json"])
    return json.loads(capsys.readouterr().out)


def test_short_and_long_runs_are_told_apart(capsys):
    flags = ("--phase", "prefill", "--batch", "4", "--context", "2048")
    burst = explained(capsys, *flags)
    long = explained(capsys, *flags, "--clocks", "sustained")
    assert burst["clocks"]["held"] == "burst"
    assert long["clocks"]["held"] == "sustained"
    at = [r["batch"] for r in burst["regimes"]].index(4)
    assert burst["regimes"][at]["step_s"] == pytest.approx(burst["clocks"]["burst_s"])
    assert long["regimes"][at]["step_s"] == pytest.approx(burst["clocks"]["sustained_s"])
    # Measured on an H100 over and over: 207.5 ms.
    assert burst["clocks"]["sustained_s"] == pytest.approx(0.2075, rel=0.09)
    assert burst["regimes"][at]["clock"] == 1.0
    assert long["regimes"][at]["clock"] == burst["clocks"]["sustained_clock"] < 0.9


def test_a_chunk_reads_the_prefix_before_it(capsys):
    flags = ("--phase", "prefill", "--batch", "1", "--context", "1024")
    alone, after = explained(capsys, *flags), explained(capsys, *flags, "--prior", "8192")
    names = {o["operator"]: o for o in alone["operators"]}
    for o in after["operators"]:
        same = names[o["operator"]]
        if o["operator"] == "attention (prefill)":
            # Each query meets 8,192 more keys than the 512 of its own chunk on average.
            assert o["flop"] / same["flop"] == pytest.approx((8192 + 512.5) / 512.5, rel=0.01)
        else:
            assert o["flop"] == same["flop"]


def test_a_prefix_without_a_prompt_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["explain", "llama-3.1-8b", "--on", "h100-sxm", "--prior", "100"])
    assert caught.value.code == 2
    assert "--phase prefill" in capsys.readouterr().err


def test_an_encoder_does_not_decode(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["explain", "bert-base", "--on", "h100-sxm"])
    assert caught.value.code == 2
    assert "--phase prefill" in capsys.readouterr().err
    main(["explain", "bert-base", "--on", "h100-sxm", "--phase", "prefill", "--context", "384",
          "--json"])  # fmt: skip
    names = [o["operator"] for o in json.loads(capsys.readouterr().out)["operators"]]
    assert "head split" in names
    assert not any("cache" in n for n in names)
