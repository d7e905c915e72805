"""`isoflop simulate` and `isoflop advise` from the command line."""

import json

import pytest

from isoflop.cli import main
from tests.test_cli import fails


def out_of(capsys, *arguments: str) -> dict:
    main([*arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def test_simulate_json_has_the_documented_fields(capsys):
    out = out_of(capsys, "simulate", "llama-3.1-8b", "--on", "h100-sxm", "--rate", "5",
                 "--requests", "300", "--slo", "ttft<1s@p99")  # fmt: skip
    for metric in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        assert {"p50", "p90", "p95", "p99", "mean"} <= out[metric].keys()
    for name in ("throughput_output_tokens_per_s", "preemptions", "wall_s",
                 "simulated_requests_per_wall_s"):  # fmt: skip
        assert out[name] >= 0
    assert out["requests"] == 300
    assert out["slo"][0]["kept"] is True
    assert sum(out["bound"].values()) == pytest.approx(1.0, rel=1e-6)


def test_simulate_prints_one_screen(capsys, tmp_path):
    timeline = tmp_path / "steps.json"
    main(["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--requests", "100", "--timeline",
          str(timeline)])  # fmt: skip
    out = capsys.readouterr().out
    for words in ("time to first token", "Throughput", "Cache", "bound by", "Simulated in"):
        assert words in out
    assert json.loads(timeline.read_text())["traceEvents"]


def test_simulate_reads_a_trace(capsys, tmp_path):
    path = tmp_path / "trace.csv"
    rows = "\n".join(f"{i * 0.1:.1f},100,{10 + i}" for i in range(30))
    path.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}\n")
    out = out_of(capsys, "simulate", "llama-3.1-8b", "--on", "h100-sxm", "--traffic", str(path),
                 "--rate", "20")  # fmt: skip
    assert out["requests"] == 30
    assert out["duration_s"] < 3


def test_simulate_splits_over_unlike_pools_that_fail(capsys):
    ask = ["simulate", "llama-3.1-8b", "--on", "h100-sxm:2xl40s", "--plan", ":tp2"]
    assert "write PREFILL:DECODE" in fails(capsys, *ask, "--disaggregate", "2:1")
    ask = ["simulate", "llama-3.1-8b", "--on", "h100-sxm:2xl40s", "--disaggregate", "2:3",
           "--rate", "6", "--requests", "150", "--router", "prefix-aware:least-loaded"]  # fmt: skip
    calm, hit = out_of(capsys, *ask), out_of(capsys, *ask, "--fail", "p0@5+9,d2@8+4")
    assert calm["devices"] == hit["devices"] == 2 + 3 * 2
    assert [p["device"] for p in hit["pools"]] == ["h100-sxm", "l40s"]
    assert [p["plan"] for p in hit["pools"]] == calm["plan"].split(" + ")
    assert hit["outages"] == 2
    assert hit["rerouted_requests"] > 0
    assert hit["available_share"] < 1.0
    assert hit["e2e_s"]["p99"] > calm["e2e_s"]["p99"]
    # A request of 512 and 128 tokens: the cache crosses the L40S's host link.
    assert 1e-4 < calm["transfer_s"] < 1e-2
    main([*ask, "--drain", "1@5+9"])
    out = " ".join(capsys.readouterr().out.split())
    for words in ("prefill 2 x", "decode 3 x tp2", "Pools: prefill 2 x h100-sxm busy",
                  "on its way", "1 outage:"):  # fmt: skip
        assert words in out


def test_instances_that_share_a_device_in_both_pools(capsys):
    ask = ["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--disaggregate", "1:2", "--requests",
           "60", "--rate", "5", "--max-context", "4096"]  # fmt: skip
    alone, shared = out_of(capsys, *ask), out_of(capsys, *ask, "--share", "2")
    assert alone["devices"] == shared["devices"] == 3
    assert shared["split"] == {"prefill": 2, "decode": 4}
    assert shared["ttft_s"]["mean"] > alone["ttft_s"]["mean"]


def test_advise_names_the_cheapest_that_keeps_the_promise(capsys):
    out = out_of(capsys, "advise", "llama-3.1-8b", "--on", "8xh100-sxm", "--rate", "20",
                 "--slo", "ttft<500ms@p99,tpot<40ms@p95")  # fmt: skip
    best = out["best"]
    assert best["kept"]
    assert best["ttft_p99_s"] < 0.5
    assert all(best["usd_per_hour"] <= f["usd_per_hour"] for f in out["finalists"] if f["kept"])
    assert out["evaluated"] > 100
    assert {"vLLM", "SGLang", "TensorRT-LLM"} == out["launch"].keys()
    assert "--max-num-seqs" in out["launch"]["vLLM"]
    prices = [p["usd_per_hour"] for p in out["pareto"]]
    times = [p["tpot_s"] for p in out["pareto"]]
    assert prices == sorted(prices)
    assert times == sorted(times, reverse=True)


def test_more_traffic_never_needs_fewer_devices(capsys):
    devices = [
        out_of(capsys, "advise", "llama-3.1-8b", "--on", "16xh100-sxm", "--rate", str(rate),
               "--weights", "bf16", "--kv", "bf16")["best"]["devices"]
        for rate in (5, 60, 200)
    ]  # fmt: skip
    assert devices == sorted(devices)
    assert devices[-1] > devices[0]


def test_what_misses_by_least_is_named(capsys):
    """Too much traffic: the fewest devices that would do; too large a model: the thinnest shard."""
    import re

    ask = ["advise", "llama-3.1-8b", "--on", "4xh100-sxm", "--traffic", "demo"]
    text = fails(capsys, *ask, "--rate", "200")
    needed = int(re.search(r"needs (\d+) devices", text)[1])
    enough = ["advise", "llama-3.1-8b", "--on", "16xh100-sxm", "--traffic", "demo", "--rate", "200"]
    main([*enough, "--json"])
    devices = json.loads(capsys.readouterr().out)["best"]["devices"]
    # The closed form knows no tails, so the simulator may ask for more.
    assert 4 < needed <= devices < 2 * needed
    text = fails(capsys, "advise", "llama-3.1-405b", "--on", "4xl40s", "--rate", "1")
    assert re.search("closest, tp4, weights fp8.* needs .* per device", text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--policy", "vlm"], "vllm"),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--traffic", "/no/trace"], "cannot be"),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--rate", "-1"], "positive"),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--rate", "nan"], "positive"),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--prompt", "many"], "not a length"),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--prompt", "200000"], "at most 131,072"),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--max-sequences", "0"], "at least 1"),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--max-tokens", "64"], "Raise the token"),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--disaggregate", "2"], "P:D"),
        (
            [
                "simulate",
                "llama-3.1-8b",
                "--on",
                "h100-sxm",
                "--disaggregate",
                "1:1",
                "--replicas",
                "2",
            ],
            "P:D says how many",
        ),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm,l40s", "--disaggregate", "1:1"], "differ"),
        (
            ["simulate", "llama-3.1-8b", "--on", "h100-sxm:l40s"],
            "with --disaggregate P:D, or name one kind",
        ),
        (
            ["simulate", "llama-3.1-8b", "--on", "h100-sxm:", "--disaggregate", "1:1"],
            "write PREFILL:DECODE",
        ),
        (
            ["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--router", "random:random"],
            "names prefill and decode instances",
        ),
        (
            [
                "simulate",
                "llama-3.1-8b",
                "--on",
                "h100-sxm",
                "--disaggregate",
                "1:2",
                "--fail",
                "d2@3+4",
            ],
            "decode instance 2, but there are 2",
        ),
        (
            ["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--fail", "p0@3+4"],
            "leave the letter out",
        ),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--seed", "-1"], "seed is -1"),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--turns", "0"], "turns is 0"),
        (
            ["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--clients", "2", "--think", "nan"],
            "zero seconds or more",
        ),
        (
            ["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--clients", "2", "--rate", "3"],
            "--rate does not apply to a closed loop",
        ),
        (
            ["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--traffic", "demo", "--output", "5"],
            "--output does not apply to a trace",
        ),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--prompt", "512/128"], "below its med"),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--shared-prefix", "-4"], "zero or more"),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--router", "nearest"], "router called"),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--cache-blocks", "-3"], "1 or more"),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--draft-branches", "2"], "needs --dr"),
        (["simulate", "llama-3.1-8b", "--on", "h100-sxm", "--slo", "fast"], "latency promise"),
        (["advise", "llama-3.1-8b", "--on", "h100-sxm", "--slo", "ttft<5 parsecs"], "not a time"),
        (
            [
                "advise",
                "llama-3.1-8b",
                "--on",
                "h100-sxm",
                "--clients",
                "8",
                "--requests",
                "16",
                "--loads",
                "1.5",
            ],
            "whole numbers of clients",
        ),
        (
            [
                "advise",
                "llama-3.1-8b",
                "--on",
                "h100-sxm",
                "--clients",
                "64",
                "--requests",
                "64",
                "--slo",
                "ttft<100ms@p99",
            ],
            "fewer clients.*all start at once",
        ),
        (["advise", "llama-3.1-8b", "--on", "h100-sxm", "--slo", "ttft<1us@p99"], "No config"),
        (["advise", "llama-3.1-8b", "--on", "h100-sxm", "--rate", "100000"], "needs .* devices"),
        (["advise", "llama-3.1-405b", "--on", "h100-sxm", "--weights", "bf16"], "needs .*per dev"),
    ],
)
def test_bad_input_is_a_sentence(capsys, arguments, says):
    import re

    assert re.search(says, fails(capsys, *arguments))


def test_a_closed_loop_is_advised_by_its_clients(capsys):
    """The rate follows from the answer; loads are clients, and twice as many need twice as much."""
    arguments = ["advise", "llama-3.1-8b", "--on", "8xh100-sxm", "--clients", "24", "--requests",
                 "240", "--slo", "tpot<8ms@p90,ttft<1s@p99", "--weights", "fp8",
                 "--kv", "fp8"]  # fmt: skip
    found = out_of(capsys, *arguments, "--loads", "24,48,480")
    assert found["clients"] == 24
    room = found["capacity"]
    each = room["clients_per_replica"]
    assert each >= 24 / found["best"]["replicas"]
    assert [r["replicas"] for r in room["loads"]] == [-(-n // each) for n in (24, 48, 480)]
    main([*arguments, "--capacity"])
    shown = capsys.readouterr().out
    assert "24 clients" in shown
    assert f"the clients make {found['requests_per_s']:.3g} requests/s" in shown
    assert f"up to {each} clients" in " ".join(shown.split())


def test_conversations_are_advised(capsys):
    found = out_of(capsys, "advise", "llama-3.1-8b", "--on", "2xh100-sxm", "--turns", "3",
                   "--requests", "300", "--rate", "4", "--weights", "fp8",
                   "--kv", "fp8")  # fmt: skip
    assert found["best"]["kept"]
    assert 3.0 < found["requests_per_s"] < 5.5
