import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.errors import InvalidPlan
from isoflop.hardware import load_fleet
from isoflop.models import load_model
from isoflop.training.memory import memory_parts
from isoflop.training.plan import Plans, Recipe, TrainingJob, TrainingPlan
from isoflop.training.plan_text import parse_training_plan
from isoflop.training.schedule import StageTimes, find_schedule
from isoflop.training.time import StepPricer
from isoflop.training.timeline import StepTimeline, step_timeline

MODEL = load_model("llama-3.1-8b")


def simulate(text: str, batch: int, recipe: Recipe | None = None, model=MODEL) -> StepTimeline:
    plan = parse_training_plan(text)
    device, _, cluster = load_fleet(f"{plan.devices}xdgx-h100")
    job = TrainingJob(model=model, global_batch=batch * plan.data, sequence_tokens=4096)
    recipe = recipe or Recipe()
    pricer = StepPricer(job=job, recipe=recipe, device=device, cluster=cluster)
    return step_timeline(job, recipe, plan, pricer.price(Plans.of([plan])))


def closed_form(step: StepTimeline) -> float:
    parts = memory_parts(step.job, step.recipe, Plans.of([step.plan]))
    return float(sum(v[0] for v in parts.values()))


@settings(max_examples=60, deadline=None)
@given(
    schedule=st.sampled_from(["gpipe", "1f1b", "interleaved", "zero-bubble", "dualpipe"]),
    stages=st.sampled_from([1, 2, 4, 8]), rounds=st.integers(1, 4), chunks=st.sampled_from([2, 4]),
    recompute=st.sampled_from(["none", "selective", "alternate", "full"]),
    zero=st.integers(0, 3), full_layers=st.integers(0, 3),
    logit_bytes=st.sampled_from([0.0, 4.0, 64.0]),
)  # fmt: skip
def test_the_most_of_the_fullest_stage_is_the_closed_form(
    schedule, stages, rounds, chunks, recompute, zero, full_layers, logit_bytes
):
    plan = TrainingPlan(
        pipeline=stages, data=2, zero=zero, recompute=recompute, schedule=schedule,
        virtual=chunks if schedule == "interleaved" and stages > 1 else 1,
        full_layers=full_layers if recompute in ("none", "selective") else 0,
    )  # fmt: skip
    if stages == 1:
        plan = evolve(plan, schedule="1f1b")
    m = rounds * stages + (stages if schedule == "dualpipe" else 0)
    if schedule == "dualpipe" and (m < 2 * stages or m % 2):
        return
    step = simulate(plan.describe(), m, Recipe(logit_bytes=logit_bytes))
    assert step.fullest().peak_bytes == pytest.approx(closed_form(step), rel=1e-9)


@pytest.mark.parametrize("text", [
    "pp4,mb1,zero1", "pp4,vpp2,mb1,zero1", "pp4,mb1,zero1,gpipe", "pp4,mb1,zero1,zero-bubble",
    "pp4,mb1,zero1,dualpipe", "mb1,zero0,full", "tp2,pp2,dp2,mb1,zero3",
])  # fmt: skip
def test_everything_that_is_allocated_is_freed(text):
    step = simulate(text, 8)
    for stage in range(step.plan.pipeline):
        line = step.memory(stage)
        assert np.all(np.diff(line.times_s) >= 0)
        assert line.times_s[-1] == step.end_s
        for part in ("activations", "logits", "transient"):
            assert line.parts[part][0] == 0
            assert line.parts[part][-1] == pytest.approx(0, abs=1.0)
        assert np.all(line.total_bytes >= line.total_bytes[0] - 1.0)


@pytest.mark.parametrize("text", [
    "layers=4/12/8/8", "layers=8/8/8/8", "first6,last6", "last2", "vpp2,first7,last5",
    "vpp2,layers=5/4/4/3/5/4/4/3", "vpp3,layers=1/2/3/4/4/3/2/1/5/4/3/0", "vpp2,full2,last6",
])  # fmt: skip
def test_uneven_stages_need_what_their_fullest_stage_needs(text):
    step = simulate(f"pp4,mb1,zero1,{text}", 8)
    peaks = [step.memory(s).peak_bytes for s in range(4)]
    assert max(peaks) == pytest.approx(closed_form(step), rel=1e-9)
    assert sum(step.layers) == 32


def test_the_simulated_step_is_the_priced_one():
    for text in (
        "pp4,mb1,zero1",
        "pp4,mb1,zero1,gpipe",
        "pp4,mb1,zero1,last6",
        "pp4,vpp2,mb1,zero1,first7,last7",
        "pp4,vpp2,mb1,zero1,layers=4/4/4/4/4/4/5/3",
        "pp4,vpp2,mb1,zero1,layers=5/3/5/3/3/5/3/5",
    ):
        step = simulate(text, 16)
        device, _, cluster = load_fleet("4xdgx-h100")
        priced = StepPricer(job=step.job, recipe=step.recipe, device=device, cluster=cluster).price(
            Plans.of([step.plan])
        )
        assert step.end_s == pytest.approx(float(priced.seconds[0]), rel=0.02)


def test_thinning_keeps_the_peak():
    line = simulate("pp4,mb1,zero1", 512).fullest()
    few = line.thinned(200)
    assert len(few.times_s) <= 202 < len(line.times_s)
    assert few.peak_bytes == line.peak_bytes


@settings(max_examples=40, deadline=None)
@given(
    half=st.integers(1, 8), more=st.integers(0, 6), f=st.floats(0.5, 2), b=st.floats(1, 3),
    w=st.floats(0.1, 1),
)  # fmt: skip
def test_dualpipe_is_its_closed_form(half, more, f, b, w):
    b, w = f * b, f * w
    t = StageTimes(forward_s=f, backward_s=b, weight_s=w)
    p, m = 2 * half, 4 * half + 2 * more
    schedule = find_schedule("dualpipe")
    line = schedule.run([t] * p, m)
    assert line.total_s == pytest.approx(schedule.closed_form_s(p, m, 1, t))
    assert set(line.peak_in_flight) == {p + 1}
    done = sorted((s.task.kind, s.task.direction, s.task.micro_batch) for s in line.slots
                  if s.stage == 0 and s.task.kind != "W")  # fmt: skip
    assert done == sorted((k, d, i) for k in "FB" for d in (0, 1) for i in range(m // 2))


def test_dualpipe_refuses_what_it_cannot_run():
    t = StageTimes(forward_s=1, backward_s=1, weight_s=1)
    for stages, count in ((3, 12), (4, 6), (4, 9)):
        with pytest.raises(InvalidPlan, match="DualPipe"):
            find_schedule("dualpipe").run([t] * stages, count)
