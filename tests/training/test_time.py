import numpy as np
import pytest
from attrs import evolve

from isoflop.cost.features import Batch
from isoflop.cost.operators.training import training_operators
from isoflop.cost.timing import KernelTimer, linear
from isoflop.hardware import load_accelerator, load_fleet
from isoflop.models import load_model
from isoflop.plans import Plan
from isoflop.training.calibration import load_training
from isoflop.training.fleet import slow_clock
from isoflop.training.goodput import goodput
from isoflop.training.plan import Plans, Recipe, TrainingJob, TrainingPlan
from isoflop.training.time import Pricing, StepPricer
from isoflop.training.utilization import step_flop


def job(model: str = "gpt3-175b", batch: int = 512, seq: int = 2048) -> TrainingJob:
    return TrainingJob(model=load_model(model), global_batch=batch, sequence_tokens=seq)


def parts(j: TrainingJob, *plans: TrainingPlan, fleet: str = "512xdgx-h100", **recipe):
    device, _, cluster = load_fleet(fleet)
    pricer = StepPricer(job=j, recipe=Recipe(**recipe), device=device, cluster=cluster)
    return pricer.price(Plans.of(plans))


def test_backward_is_twice_forward_in_products_and_two_and_a_half_in_attention():
    model = load_model("llama-3.1-8b")
    ops = training_operators(model, Plan())
    batch = Batch(prefill_sequences=2.0, prefill_tokens=4096.0, sampled_rows=8192.0)

    def flop(group, kinds) -> float:
        return sum(float(op.count * linear(op.flop, batch)) for op in group if op.kind in kinds)

    forward = flop(ops.forward, ("gemm",))
    assert flop(ops.input_gradient, ("gemm",)) == pytest.approx(forward)
    assert flop(ops.weight_gradient, ("gemm",)) == pytest.approx(forward)
    attention = flop(ops.forward, ("prefill",))
    assert flop(ops.input_gradient, ("prefill",)) == pytest.approx(2.5 * attention)
    # 6 N D and the attention of the utilisation formula are the same operators counted apart.
    total = 3 * (forward + attention)
    j = TrainingJob(model=model, global_batch=2, sequence_tokens=4096)
    assert total == pytest.approx(step_flop(j), rel=2e-3)


def test_megatron_convention_is_equation_3():
    j = job()
    b, s, layers, h, v = 512, 2048, 96, 12288, j.model.vocab
    expected = 96 * b * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
    assert step_flop(j, "megatron-2021") == pytest.approx(expected)
    assert step_flop(j, "megatron-model") == pytest.approx(expected * 0.75)


def test_pipeline_bubbles_follow_their_closed_forms():
    base = TrainingPlan(tensor=8, pipeline=8, data=8, micro_batch=1, zero=1)
    plans = [
        base, evolve(base, schedule="gpipe"),
        evolve(base, virtual=3, schedule="interleaved"),
        evolve(base, schedule="zero-bubble"), evolve(base, schedule="dualpipe"),
    ]  # fmt: skip
    step = parts(job(), *plans)
    bubble = step.parts["bubble"]
    # (p - 1) / m of the compute of the m micro-batches, up to the head on the last stage.
    inside = sum(step.parts[k][0] for k in ("forward", "backward", "tensor"))
    assert bubble[0] == pytest.approx(7 / 64 * inside, rel=0.05)
    assert bubble[1] == bubble[0]
    assert bubble[2] == pytest.approx(bubble[0] / 3)
    assert 0.2 < bubble[3] / bubble[0] < 0.6
    assert bubble[4] < bubble[3]


def test_recomputation_adds_a_forward_pass():
    base = TrainingPlan(tensor=8, pipeline=8, data=8)
    step = parts(job(), *(evolve(base, recompute=r) for r in ("none", "selective", "full")))
    again, forward = step.parts["recompute"], step.parts["forward"]
    assert again[0] == 0
    assert 0 < again[1] < 0.3 * forward[1]
    assert again[2] == pytest.approx(forward[2], rel=0.1)
    assert np.all(np.diff(step.seconds) > 0)


def test_parts_sum_to_the_step():
    step = parts(job(), TrainingPlan(tensor=4, pipeline=4, data=32, zero=2))
    assert sum(float(v[0]) for v in step.parts.values()) == pytest.approx(float(step.seconds[0]))


def test_zero_3_pays_for_a_slow_network():
    j = job("llama-3.1-8b", 64, 4096)
    device, _, cluster = load_fleet("64xdgx-h100")
    plan = Plans.of([TrainingPlan(data=64, zero=3)])
    slow = evolve(cluster, tiers=(
        cluster.tiers[0], evolve(cluster.tiers[1], link_bytes_per_s=1e9)))  # fmt: skip
    fast_s, slow_s = (
        float(StepPricer(job=j, recipe=Recipe(), device=device, cluster=c).price(plan).seconds[0])
        for c in (cluster, slow)
    )
    assert slow_s > 1.5 * fast_s


def test_offload_is_slower_and_nvme_slowest():
    plan = TrainingPlan(tensor=8, pipeline=8, data=8)
    times = [float(parts(job(), plan, offload=o).seconds[0]) for o in ("none", "cpu", "nvme")]
    assert times == sorted(times)
    assert times[0] < times[2]


def test_boards_with_less_power_run_slower():
    calibration, own = load_training("hopper")
    assert own
    assert slow_clock(load_accelerator("h100-sxm"), calibration) == pytest.approx(1.0, abs=0.01)
    # Families whose kernel models know their power throttle there.
    assert slow_clock(load_accelerator("h100-pcie"), calibration) == 1.0
    plan = Plan()
    share = [
        KernelTimer(device=load_accelerator(d), plan=plan).headroom
        for d in ("h100-sxm", "h100-96gb", "h100-pcie")
    ]
    assert share[0] == 1.0
    # 500 W for the same chip: clocks fall far less than power does.
    assert 5 / 7 < share[1] < 0.92
    assert 0.7 < share[2] < 0.95
    blackwell, own = load_training("blackwell")
    assert own
    assert slow_clock(load_accelerator("b200"), blackwell) > 1.01


@pytest.mark.parametrize("fleet", ["tpu-v5p", "trainium-2", "gaudi-2", "mi300x", "rtx-4090"])
def test_devices_without_measurements_stay_plausible(fleet):
    j = job("gpt2", 64, 1024)
    device = load_accelerator(fleet)
    pricer = StepPricer(job=j, recipe=Recipe(), device=device)
    seconds = float(pricer.price(Plans.of([TrainingPlan(zero=0, micro_batch=8)])).seconds[0])
    share = step_flop(j) / seconds / device.rates.dense_flop_per_s["bf16"]
    assert 0.1 < share < 0.8


def test_experts_leave_once_per_node_and_overlap():
    j = job("deepseek-v3", 1024, 4096)
    plan = TrainingPlan(pipeline=8, data=64, expert=32, zero=1)
    plain, fused, hidden = (
        float(parts(j, plan, **r).parts["experts"][0])
        for r in ({}, {"fused_exchange": True}, {"overlap_expert": True})
    )
    assert fused < plain
    assert hidden < plain
    wide = TrainingPlan(pipeline=8, data=64, expert=64, zero=1)
    inside = TrainingPlan(pipeline=8, data=64, expert=8, zero=1)
    times = parts(j, inside, plan, wide).parts["experts"]
    assert times[0] < times[1] <= times[2] * 1.01


def test_goodput_is_young_and_dalys_optimum():
    g = goodput(16384, 405e9)
    # 419 interruptions in 54 days: one every 3.1 hours.
    assert g.between_failures_s == pytest.approx(54 * 86400 / 419)
    assert g.interval_s == pytest.approx((2 * g.checkpoint_s * g.between_failures_s) ** 0.5)

    def lost(tau: float) -> float:
        return g.checkpoint_s / tau + (tau / 2 + 600) / g.between_failures_s

    assert 1 - g.useful == pytest.approx(lost(g.interval_s))
    assert lost(g.interval_s) <= min(lost(0.8 * g.interval_s), lost(1.25 * g.interval_s))


def test_launches_queue_with_collectives():
    """Where the host is slower than the device, a slower collective costs little more."""
    device, _, cluster = load_fleet("8xdgx-h100")
    plan = Plans.of([TrainingPlan(tensor=8)])
    host = load_training("hopper")[0]
    seconds, tensor = [], []
    for share in (0.8, 0.4):
        slow = evolve(host, launch=1e-3, scale_up=share)
        small = job("tinyllama-1.1b", batch=8, seq=512)
        step = StepPricer(job=small, recipe=Recipe(), device=device, cluster=cluster,
                          calibration=slow).price(plan)  # fmt: skip
        seconds.append(step.seconds[0])
        tensor.append(step.parts["tensor"][0])
    assert tensor[1] > 1.2 * tensor[0]
    assert seconds[1] - seconds[0] < 0.2 * (tensor[1] - tensor[0])


def test_zero_3_without_look_ahead_slows_down_with_the_ranks():
    plans = [TrainingPlan(data=n, zero=3, recompute="full") for n in (64, 512)]
    quick = parts(job(), *plans)
    late = parts(job(), *plans, look_ahead=False, overlap_data=False)
    assert np.all(late.seconds > quick.seconds)
    assert late.parts["weights"][1] > 1.5 * late.parts["weights"][0] / 8.0


def test_gradients_are_added_up_as_they_are_held():
    """Two bytes more of each, read and written by every micro-batch."""
    plan = TrainingPlan(tensor=8, pipeline=8, data=8, micro_batch=1)
    device, _, cluster = load_fleet("512xdgx-h100")
    backward, held = [], []
    for width in (2.0, 4.0):
        recipe = Recipe(gradient_bytes=width, exchange="fp32")
        pricer = StepPricer(job=job(), recipe=recipe, device=device, cluster=cluster)
        pricing = Pricing(pricer, Plans.of([plan]))
        step = pricing.run()
        backward.append(step.parts["backward"][0])
        held.append(sum(pricing.held)[0])
    assert held[0] == held[1] > 2e9
    slow = 1.0 + pricing.cal.straggler * np.log2(512 / 8)
    moved = 64 * 4.0 * held[0] / (0.85 * device.memory.bandwidth_bytes_per_s)
    assert backward[1] - backward[0] == pytest.approx(slow * moved)


def test_a_vocabulary_over_tensor_ranks_reduces_as_much_as_a_layer():
    device, _, cluster = load_fleet("512xdgx-h100")
    plans = [TrainingPlan(tensor=t, data=512 // t) for t in (1, 8)]
    pricer = StepPricer(job=job(), recipe=Recipe(), device=device, cluster=cluster)
    pricing = Pricing(pricer, Plans.of(plans))
    pricing.run()
    head, layer = pricing._head_collectives(), 1.0 * pricing._tensor()
    assert head[0] == layer[0] == 0.0
    # Beyond a layer's four reductions, six rounds of one number per token.
    assert layer[1] < head[1] < 1.5 * layer[1]


def test_traced_collectives_wait_for_compute():
    """Only under a profiler, and only where ranks split tensors."""
    device, _, cluster = load_fleet("1xdgx-a100")
    j = job("gpt3-175b", 8)
    for tensor, waits in ((1, False), (8, True)):
        plan = TrainingPlan(tensor=tensor, data=8 // tensor, micro_batch=1)
        step = []
        for skew in (0.0, 0.2):
            cal = evolve(load_training("ampere")[0], skew_traced=skew)
            pricer = StepPricer(job=j, recipe=Recipe(traced=True), device=device, cluster=cluster,
                                calibration=cal)  # fmt: skip
            step.append(pricer.price(Plans.of([plan])).parts)
        compute = sum(step[0][k][0] for k in ("forward", "backward", "recompute"))
        more = step[1]["tensor"][0] - step[0]["tensor"][0]
        # Layers alone wait: the head's own compute stands beside them.
        assert (0.15 * compute < more <= 0.2 * compute) if waits else more == 0.0
