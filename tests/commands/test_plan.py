import json
import re

import pytest

from isoflop.cli import main
from isoflop.training.plan import Recipe, TrainingJob, TrainingPlan
from isoflop.training.plan_text import parse_training_plan


def run(capsys, *arguments: str) -> str:
    main(["plan", *arguments])
    return capsys.readouterr().out


def test_the_screen_answers_every_question(capsys):
    out = run(capsys, "llama-3.1-8b", "--on", "64xdgx-h100", "--tokens", "1T",
              "--why-not", "tp8,mb1,zero1")  # fmt: skip
    for words in ("Plan", "MFU", "HFU", "days", "USD", "MWh", "Goodput", "Memory", "bound by",
                  "What would help most", "Runner-up", "Why not", "plans in"):  # fmt: skip
        assert words in out


def test_json_round_trips_the_plan(capsys):
    out = json.loads(run(capsys, "gpt3-13b", "--on", "32xdgx-a100", "--json"))
    assert out["fits"]
    assert out["step_s"] == pytest.approx(sum(out["step_parts_s"].values()))
    assert out["memory_bytes"] <= out["usable_bytes"]
    plan = parse_training_plan(out["plan"])
    assert plan.devices == 32
    assert parse_training_plan(plan.describe()) == plan
    search = out["search"]
    assert search["considered"] == search["too_large"] + search["outbid"] + search["priced"]
    named = json.loads(run(capsys, "gpt3-13b", "--on", "32xdgx-a100", "--json",
                           "--plan", out["plan"]))  # fmt: skip
    assert named["step_s"] == pytest.approx(out["step_s"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--plan", "tp3"], "divide"),
        (["llama-3.1-8b", "--on", "60xh100-sxm", "--plan", "tp5"], "tensor degree of 5"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--plan", "tp4,mb3"], "micro-batch"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--plan", "pp64"], "32 layers"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--plan", "ep8"], "no experts"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--plan", "warp9"], "not understood"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--plan", "zero7"], "zero"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--plan", "pp4,layers=8/8/8/9"], "33 layers"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--plan", "pp4,layers=8/8/16"], "3 stages"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--plan", "pp4,dualpipe,first7"], "one direction"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--plan", "pp4,first7,balanced"], "not two"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--plan", "pp4,full9"], "fullest has 8"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--plan", "alternate,full2"], "alternate"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--plan", "pp4,dualpipe,mb16"], "DualPipe"),
        (["llama-3.1-405b", "--on", "8xh100-sxm"], "leanest"),
        (["llama-3.1-70b", "--on", "8xh100-sxm", "--plan", "tp1,mb1,zero0"], "usable"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--tokens", "soon"], "tokens"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--seq", "0"], "at least 1"),
        (["llama-3.1-8b", "--on", "64xdgx-h100", "--format", "fp3"], "fp3"),
        (["llama-3.1-8b", "--on", "8xa100-80gb-sxm", "--plan", "tp8", "--emit", "jax"], "settings"),
        (["llama-3.1-8b", "--on", "8xa100-80gb-sxm", "--tokens", "-5"], "positive"),
        (["llama-3.1-8b", "--on", "8xa100-80gb-sxm", "--batch", "0"], "positive"),
        (["llama-3.1-8b", "--on", "8xh100-sxm", "--batch", "1M", "--global-batch", "8"], "both"),
    ],
)
def test_bad_input_is_a_sentence(capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        main(["plan", *arguments])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("framework", "words"),
    [
        ("megatron", ["--tensor-model-parallel-size 4", "--sequence-parallel",
                      "--use-distributed-optimizer", "--recompute-granularity full"]),
        ("torchtitan", ["tensor_parallel_degree = 4", "pipeline_parallel_degree = 2",
                        "local_batch_size = 128", "data_parallel_shard_degree = 8",
                        'reshard_after_forward = "never"']),
        ("deepspeed", ['"stage": 1', '"train_batch_size": 1024']),
    ],
)  # fmt: skip
def test_settings(capsys, framework, words):
    out = run(capsys, "llama-3.1-8b", "--on", "64xdgx-h100", "--plan",
              "tp4,pp2,sp,mb1,zero1,full", "--emit", framework)  # fmt: skip
    for word in words:
        assert word in out


def test_torchtitan_accumulates_micro_batches_without_a_pipeline(capsys):
    out = run(capsys, "llama-3.1-8b", "--on", "64xdgx-h100", "--plan", "mb2,zero3", "--emit",
              "torchtitan")  # fmt: skip
    assert "local_batch_size = 2\nseq_len" in out.replace("global_batch_size = 1024\n", "")
    assert "global_batch_size = 1024" in out
    assert 'reshard_after_forward = "always"' in out
    assert "data_parallel_shard_degree = 64" in out


def test_a_named_plan_says_what_would_help_it(capsys):
    out = json.loads(run(capsys, "llama-3.1-8b", "--on", "64xdgx-h100", "--json", "--plan",
                         "tp8,mb1,zero1"))  # fmt: skip
    changes = out["changes"]
    assert 1 <= len(changes) <= 3
    assert "another plan" in [c["change"] for c in changes]
    for c in changes:
        assert c["gain"] == pytest.approx(out["step_s"] / c["step_s"] - 1)
        if c["change"] != "another plan":
            assert c["plan"] == out["plan"]


def test_a_chart_is_written_whole(tmp_path, capsys):
    pytest.importorskip("vl_convert")
    path = tmp_path / "plan.svg"
    run(capsys, "gpt3-1.3b", "--on", "8xdgx-a100", "--plot", str(path))
    assert path.read_text().startswith("<svg")


def test_memory_over_the_step_peaks_at_the_closed_form(capsys):
    out = json.loads(run(capsys, "llama-3.1-8b", "--on", "8xdgx-h100", "--json", "--plan",
                         "pp4,mb1,zero1,full3,first7,last7"))  # fmt: skip
    line = out["memory_timeline"]
    assert line["peak_bytes"] == pytest.approx(out["memory_bytes"])
    assert max(line["total_bytes"]) == line["peak_bytes"]
    assert out["stage_layers"] == [7, 9, 9, 7]
    assert sum(out["step_phases_s"].values()) == pytest.approx(out["step_s"], rel=0.03)


def test_the_chart_shows_pipeline_memory_over_the_step_and_front(tmp_path, capsys):
    pytest.importorskip("altair")
    path = tmp_path / "plan.html"
    run(capsys, "llama-3.1-70b", "--on", "32xdgx-h100", "--batch", "256K", "--plot", str(path))
    page = path.read_text()
    for title in ("Pipeline, ", "Memory over the step", "Plans no other beats"):
        assert title in page


def test_balanced_stages_are_no_slower(capsys):
    def step(layout: str) -> dict:
        return json.loads(run(capsys, "deepseek-v3", "--on", "512xdgx-h100", "--json", "--plan",
                              f"pp16,ep32,mb1,zero1,{layout}"))  # fmt: skip

    even, balanced = step("full"), step("full,balanced")
    assert balanced["step_s"] < even["step_s"]
    assert sum(balanced["stage_layers"]) == 61
    assert balanced["stage_layers"][-1] < max(balanced["stage_layers"])
    assert parse_training_plan(balanced["plan"]).layers == tuple(balanced["stage_layers"])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("tp3,mb1", "takes 3 devices and the fleet has 8"),
        ("pp4,first9,last9,mb1,zero1", "more"), ("pp4,layers=8/8/8/9,mb1", "33 layers"),
        ("mb8,zero0", "does not fit"), ("pp4,dualpipe,mb32", "not possible: DualPipe"),
    ],
)  # fmt: skip
def test_any_named_plan_is_told_why_not(capsys, asked, words):
    out = json.loads(run(capsys, "llama-3.1-8b", "--on", "8xdgx-h100", "--global-batch", "64",
                         "--why-not", asked, "--json"))  # fmt: skip
    assert words in out["why_not"]


def test_a_fleet_too_small_names_one_that_is_not(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "llama-3.1-70b", "--on", "4xdgx-h100", "--global-batch", "64"])
    count = int(re.search(r"(\d+) of them hold it", capsys.readouterr().err).group(1))  # type: ignore[union-attr]
    assert count in (8, 16, 32)
    out = json.loads(run(capsys, "llama-3.1-70b", "--on", f"{count}xdgx-h100", "--global-batch",
                         "64", "--json"))  # fmt: skip
    assert out["fits"]


def test_offload_makes_room():
    from isoflop.hardware import load_accelerator
    from isoflop.models import load_model
    from isoflop.training.report import describe_plan

    job = TrainingJob(model=load_model("llama-2-7b"), global_batch=8, sequence_tokens=2048)
    device, plan = load_accelerator("h100-sxm"), TrainingPlan(zero=0, recompute="full")
    here = describe_plan(job, Recipe(), device, 1, plan)
    away = describe_plan(job, Recipe(offload="cpu"), device, 1, plan)
    assert sum(away.memory.values()) < 0.6 * sum(here.memory.values())
    assert away.step_s > here.step_s


def test_gradients_held_in_16_bits_take_half_and_megatron_is_told(capsys):
    plan = "--plan", "zero1,mb1,sp,tp2"
    wide = json.loads(run(capsys, "llama-3.1-8b", "--on", "64xdgx-h100", *plan, "--json"))
    half = json.loads(run(capsys, "llama-3.1-8b", "--on", "64xdgx-h100", *plan, "--json",
                          "--held-gradients", "bf16"))  # fmt: skip
    sizes = [r["memory_parts_bytes"]["gradients"] for r in (wide, half)]
    assert sizes[1] == pytest.approx(sizes[0] / 2)
    text = run(capsys, "llama-3.1-8b", "--on", "64xdgx-h100", *plan, "--held-gradients", "bf16",
               "--emit", "megatron")  # fmt: skip
    assert "--grad-reduce-in-bf16" in text
