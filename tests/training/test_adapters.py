import pytest
from attrs import evolve

from isoflop.cli import main
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.training.plan import Recipe, TrainingJob, TrainingPlan
from isoflop.training.report import describe_plan


def priced(recipe, plan):
    job = TrainingJob(model=load_model("llama-3.2-1b"), global_batch=8, sequence_tokens=2048)
    return describe_plan(job, recipe, load_accelerator("h100-sxm"), 1, plan)


def test_adapters_save_a_third_of_the_flop_and_all_state():
    plan = TrainingPlan(micro_batch=1)
    whole, adapters = priced(Recipe(), plan), priced(evolve(Recipe(), adapters=True), plan)
    assert adapters.step_s < whole.step_s
    assert adapters.memory["optimizer"] == adapters.memory["gradients"] == 0.0
    # Of the same work a step needs two forward passes' worth instead of three.
    ratio = (adapters.hardware_flop_utilization * adapters.step_s) / (
        whole.hardware_flop_utilization * whole.step_s)  # fmt: skip
    assert ratio == pytest.approx(2 / 3)
    assert adapters.model_flop_utilization < 1.0


def test_a_model_that_does_not_fit_is_told_what_is_left_to_try(capsys):
    tried = ["--offload", "cpu", "--optimizer", "adam8bit"]
    with pytest.raises(SystemExit) as stop:
        main(["plan", "qwen2.5-14b", "--on", "rtx-4090", *tried])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert "--adapters" in text
    assert "--offload cpu" not in text


def test_adapters_let_an_8b_model_onto_one_24_gb_card(capsys):
    main(["plan", "llama-3.1-8b", "--on", "rtx-4090", "--adapters", "--batch", "65536",
          "--seq", "2048"])  # fmt: skip
    assert "2 x forward" in capsys.readouterr().out
