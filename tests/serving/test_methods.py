"""Serving methods: closed forms, limits, and what their papers claim."""

import json
import math

import numpy as np
import pytest
from benchmarks.methods import published, token_weave
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.cli import main
from isoflop.cost.engines import load_engine
from isoflop.cost.features import Batch, experts_touched
from isoflop.cost.step import StepModel
from isoflop.errors import InvalidInput, InvalidPlan
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Formats, Plan
from isoflop.serving.method import find_method, method_names
from isoflop.serving.methods.lookahead import step_speedup, token_speedup
from isoflop.serving.methods.moe_lens import Machine, Scheduler
from isoflop.serving.methods.sparse_attention import eflop
from isoflop.serving.offload import HostExperts, routed
from isoflop.serving.token_choice import keep_tokens
from tests.test_cli import fails


def run(name: str, model: str = "llama-3.1-8b", device: str = "h100-sxm", tensor: int = 1, **given):
    step = StepModel(model=load_model(model), plan=Plan(tensor=tensor),
                     device=load_accelerator(device))  # fmt: skip
    method = find_method(name)
    return method.run(step, method.complete(given))


@pytest.mark.parametrize("name", method_names())
def test_method_is_documented(name):
    method = find_method(name)
    assert "References" in type(method).__doc__
    assert "arXiv" in method.reference
    assert all(v[0] >= 0 and v[1] for v in method.options.values())


def test_batching_advisor_stops_where_throughput_does():
    """Mind the Memory Gap: OPT-1.3B keeps nearly all throughput with half the cache."""
    report = run("batching-advisor", "opt-1.3b", "h100-64gb")
    chosen = next(r for r in report.rows() if r["chosen"])
    largest = report.rows()[-1]
    assert chosen["tokens_per_s"] > 0.85 * largest["tokens_per_s"]
    assert chosen["cache_bytes"] <= 0.6 * largest["cache_bytes"]
    stricter = run("batching-advisor", "opt-1.3b", "h100-64gb", epsilon=0.3)
    assert next(r for r in stricter.rows() if r["chosen"])["batch"] < chosen["batch"]


def test_spec_prefill_tends_to_its_bound():
    """Published: up to 7.66 times for Llama 3.1 405B in FP8 with an 8B draft on eight H200."""
    step = StepModel(
        model=load_model("llama-3.1-405b"), plan=Plan(tensor=8, formats=Formats(weights="fp8")),
        device=load_accelerator("h200"),
    )  # fmt: skip
    method = find_method("spec-prefill")
    rows = method.run(step, method.complete({"keep": 0.1})).rows()
    gains = [r["speedup"] for r in rows]
    assert gains == sorted(gains)
    assert max(gains) == pytest.approx(7.66, rel=0.1)
    for r in rows:
        assert r["speedup"] < r["full_s"] / r["kept_s"]
        assert r["full_s"] / (r["draft_s"] + r["look_ahead_s"] + r["kept_s"]) == pytest.approx(
            r["speedup"]
        )
    # Keeping everything can only lose, by the draft; a smaller draft loses less.
    whole = method.run(step, method.complete({"keep": 1.0})).rows()
    assert all(r["speedup"] < 1 for r in whole)
    tiny = method.run(step, method.complete({"keep": 0.1, "draft_params": 1e9})).rows()
    assert all(a["speedup"] > b["speedup"] for a, b in zip(tiny, rows))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), prompt=st.integers(1, 40), keep=st.floats(0.01, 1.0),
    pool=st.sampled_from([1, 3, 5]), chunk=st.integers(1, 9),
)  # fmt: skip
def test_kept_tokens_are_those_of_the_papers_steps(seed, prompt, keep, pool, chunk):
    attention = np.random.default_rng(seed).dirichlet(np.ones(prompt), (2, 3, 4))
    kept = keep_tokens(attention, keep, pool=pool, chunk=chunk)
    # A plain reading: smooth, largest over layers and heads, mean over steps, mean over chunks.
    score = []
    for i in range(prompt):
        near = range(max(0, i - pool // 2), min(prompt, i + pool // 2 + 1))
        rows = [[[np.mean([attention[layer, h, s, j] for j in near]) for s in range(4)]
                 for h in range(3)] for layer in range(2)]  # fmt: skip
        score.append(np.mean(np.max(rows, axis=(0, 1))))
    chunks = [list(range(a, min(prompt, a + chunk))) for a in range(0, prompt, chunk)]
    chunks.sort(key=lambda c: -np.mean([score[i] for i in c]))
    wanted = {i for c in chunks[: math.ceil(keep * len(chunks))] for i in c} | {prompt - 1}
    assert kept.tolist() == sorted(wanted)


def test_what_a_small_model_keeps_is_what_a_large_one_needs():
    step = StepModel(
        model=load_model("llama-3.1-70b"), plan=Plan(tensor=8), device=load_accelerator("h200")
    )
    method = find_method("spec-prefill-tokens")
    rows = {r["keep"]: r for r in method.run(step, method.complete({"prompts": 100})).rows()}
    tenth, whole = rows[0.1], rows[1.0]
    assert whole["own_right"] > 0.95
    assert whole["draft_right"] == whole["own_right"] == whole["random_right"]
    assert tenth["words"] < 10
    assert tenth["draft_right"] > 0.9 * whole["own_right"]
    assert tenth["random_right"] < 0.5
    assert tenth["speedup"] > 1.0 > whole["speedup"]


@pytest.mark.parametrize(
    ("options", "says"),
    [({"keep": 0.0}, "share"), ({"keep": 1.1}, "share"), ({"keep": 0.5, "pool": 2}, "odd"),
     ({"keep": 0.5, "chunk": 0}, "at least 1")],
)  # fmt: skip
def test_impossible_choices_of_tokens_are_refused(options, says):
    with pytest.raises(InvalidInput, match=says):
        keep_tokens(np.ones((1, 1, 1, 4)), **options)


def test_weight_only_kernels_pay_as_published():
    """MARLIN: near the largest gain to 16-32 sequences, less but still much to 64-128; 2.8x."""
    step = StepModel(model=load_model("llama-2-7b"), plan=Plan(), device=load_accelerator("a10"),
                     engine=load_engine("vllm"))  # fmt: skip
    method = find_method("weight-only")
    rows = {r["batch"]: r for r in method.run(step, method.complete({})).rows()}
    largest = 16 / 4.125
    for batch, row in rows.items():
        assert 1.0 <= row["step_gain"] <= row["kernel_gain"] < largest
        if batch <= 16:
            assert row["kernel_gain"] > 0.95 * largest
    assert rows[32]["kernel_gain"] > 0.88 * largest
    assert rows[64]["kernel_gain"] > 2.0
    assert rows[128]["kernel_gain"] > 1.5
    gains = [r["kernel_gain"] for r in rows.values()]
    assert gains == sorted(gains, reverse=True)
    # Its largest end-to-end gain is 2.8 of several models and GPUs, ours at one sequence.
    assert rows[1]["step_gain"] == pytest.approx(2.8, rel=0.2)
    # Products at 16 bits take the whole time of the linear layers in the end.
    assert rows[1]["roof"] < 0.05
    assert rows[512]["roof"] > 0.7
    with pytest.raises(InvalidInput, match="whole number"):
        method.run(step, method.complete({"group": 7.5}))


def test_token_weave_hides_no_more_than_there_is():
    rows = run("token-weave", "llama-3.1-70b", tensor=8).rows()
    for r in rows:
        # Norms run inside the fused kernel, so the bound is on work alone: below no_network_s.
        assert 1.0 <= r["gain"] < 1.2 / (1.0 - r["network_share"])
        assert 0.85 * r["no_network_s"] < r["woven_s"] <= r["plain_s"]
        assert 0.8 < r["clock"] <= 1.0
        assert r["plain_s"] < r["library_s"]
    assert rows[0]["gain"] <= rows[-1]["gain"]


@pytest.mark.parametrize("model", ["llama-3.1-70b", "qwen2.5-72b", "mixtral-8x22b"])
def test_token_weave_against_its_artifact(model):
    """Steps measured by its authors; the network's constants were fitted on kernels alone."""
    mine = token_weave(model)
    for row in published("tokenweave.csv"):
        if row["model"] != model:
            continue
        r = mine[int(row["tokens"])]
        measured = {k: float(row[f"{k}_ms"]) * 1e-3 for k in ("plain", "no_network", "woven")}
        assert r["plain_s"] == pytest.approx(measured["plain"], rel=0.25)
        assert r["no_network_s"] == pytest.approx(measured["no_network"], rel=0.25)
        share = 1.0 - measured["no_network"] / measured["plain"]
        assert r["network_share"] == pytest.approx(share, abs=0.04)
        # Splitting that loses is not done; the smallest steps are bound by launches besides.
        gain = max(1.0, measured["plain"] / measured["woven"])
        tolerance = 0.15 if r["tokens"] < 2048 else 0.12
        assert r["gain"] == pytest.approx(gain, rel=tolerance)


def test_token_weave_leaves_units_to_compute():
    with pytest.raises(InvalidPlan, match="leaves none"):
        run("token-weave", "llama-3.1-70b", tensor=8, units=200)
    many = run("token-weave", "llama-3.1-70b", tensor=8, units=64).rows()
    few = run("token-weave", "llama-3.1-70b", tensor=8).rows()
    assert all(a["woven_s"] >= b["woven_s"] - 1e-9 for a, b in zip(many, few))


def test_fiddler_decodes_mixtral_on_24_gb():
    """Published: over 3 tokens/s for one sequence on a 24 GB device, 7 ms per expert profiled."""
    report = run("fiddler", "mixtral-8x7b", "rtx-4090", host_bandwidth=5.5e10)
    assert 3.0 < report.rows()[0]["tokens_per_s"] < 3.5
    slower = run("fiddler", "mixtral-8x7b", "rtx-4090", host_bandwidth=3.52e8 / 7e-3)
    assert slower.rows()[0]["tokens_per_s"] == pytest.approx(3.0, rel=0.08)
    one = report.rows()[0]
    assert 10 < one["streamed_s"] / one["fiddler_s"] < 20  # "an order of magnitude"


@pytest.mark.parametrize(("device", "published"), [("rtx-4090", 56), ("rtx-6000-ada", 125)])
def test_as_many_experts_fit_as_published(device, published):
    step = StepModel(model=load_model("mixtral-8x7b"), plan=Plan(),
                     device=load_accelerator(device))  # fmt: skip
    place = HostExperts.of(step, host_bytes_per_s=1e11, host_flop_per_s=1e12)
    assert place.resident == pytest.approx(published, rel=0.06)


@pytest.mark.parametrize(("device", "measured"), [("rtx-a6000", 4.78), ("rtx-6000-ada", 3.80)])
def test_streaming_all_weights_takes_as_long_as_measured(device, measured):
    """DeepSpeed-MII on Mixtral 8x7B, seconds per token (github.com/efeslab/fiddler, benchmarks)."""
    streamed = run("fiddler", "mixtral-8x7b", device).rows()[0]["streamed_s"]
    assert streamed == pytest.approx(measured, rel=0.25)


def test_fiddler_pipelines_lie_between_their_bound_and_the_extremes():
    for r in run("fiddler", "mixtral-8x7b", "rtx-6000-ada").rows():
        extremes = min(r["all_sent_s"], r["all_on_host_s"])
        assert r["bound_s"] <= r["balanced_s"] * (1 + 1e-9)
        assert r["balanced_s"] <= 1.05 * extremes
        assert r["fiddler_s"] <= 1.05 * extremes
        assert r["balanced_s"] < 1.25 * r["bound_s"]
        assert max(r["all_sent_s"], r["all_on_host_s"]) < r["streamed_s"] or r["tokens"] >= 256


def test_fiddler_agrees_with_its_closed_form():
    """All sent: each layer's own work, then copies end to end and the last expert."""
    step = StepModel(model=load_model("mixtral-8x7b"), plan=Plan(),
                     device=load_accelerator("rtx-4090"))  # fmt: skip
    place = HostExperts.of(step, host_bytes_per_s=1.2e11, host_flop_per_s=2e12)
    tokens = 1024
    batch = Batch(prefill_sequences=1.0, prefill_tokens=np.array(float(tokens)))
    other = float(place.other_s(batch))
    each = float(place.device_s(np.array(tokens * place.per_token / place.experts)))
    away = 1.0 - place.resident / (place.layers * place.experts)
    layer = other + away * place.experts * place.send_s + each
    simulated = next(r for r in run("fiddler", "mixtral-8x7b", "rtx-4090").rows()
                     if r["tokens"] == tokens)["all_sent_s"]  # fmt: skip
    assert simulated == pytest.approx(place.layers * layer, rel=0.02)


def test_routing_visits_different_experts():
    rng = np.random.default_rng(0)
    for tokens in (1, 3, 50):
        counts = routed(tokens, 8, 2, rng)
        assert counts.sum() == 2 * tokens
        assert counts.max() <= tokens
    many = np.mean([(routed(16, 8, 2, rng) > 0).sum() for _ in range(400)])
    assert many == pytest.approx(float(experts_touched(16, 8, 2)), rel=0.02)
    assert routed(100_000, 8, 2, rng).sum() == pytest.approx(200_000, rel=0.01)


def moe_lens(**given):
    return run("moe-lens", "mixtral-8x7b", "a40", **given).rows()


def test_moe_lens_against_its_paper():
    """Sections 5 and 8: saturation, a pass of the weights, utilisation, the gain of mixing."""
    rows = {r["output"]: r for r in moe_lens(sequences=25000.0)}
    assert rows[256]["amplification"] == pytest.approx(1.57, abs=0.005)
    assert rows[32]["pass_tokens"] == pytest.approx(19_200, rel=0.05)  # 70 GB just saturate
    assert rows[32]["device_busy"] == pytest.approx(0.9, abs=0.15)
    assert rows[32]["device_busy"] > 1.5 * rows[64]["device_busy"] * 0.9
    step = StepModel(model=load_model("mixtral-8x7b"), plan=Plan(), device=load_accelerator("a40"))
    machine = Machine.of(step, find_method("moe-lens").complete({}))
    assert machine.saturation == pytest.approx(18_500, rel=0.15)
    assert machine.pass_s == pytest.approx(5.0, rel=0.06)


def test_moe_lens_approaches_its_bound():
    few, many = moe_lens(sequences=10000.0), moe_lens(sequences=60000.0)
    for a, b in zip(few, many):
        assert a["of_bound"] < b["of_bound"] <= 1.02  # longer batches converge from below
        assert b["pipeline_per_s"] > 1.2 * b["phases_per_s"]
    assert many[0]["of_bound"] > 0.85
    assert [r["device_busy"] for r in many] == sorted(r["device_busy"] for r in many)[::-1]


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 64), st.floats(0.0, 3.0),
       st.booleans())  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_moe_lens_scheduler_loses_no_token(sequences, output, prompt, spare, mixed):
    """Every output token is decoded exactly once or redone as a prompt token; pages suffice."""
    machine = Machine(layers=2, layer_s=1.0, knots=np.array([1.0, 1e6]),
                      device_s=np.array([0.1, 10.0]), token_bytes=1.0, host_bytes_per_s=1.0,
                      saturation=100.0)  # fmt: skip
    room = (1.0 + spare) * math.ceil((prompt + output) / 16) * 16
    plan = Scheduler.of(machine, float(prompt), output, sequences, room, mixed)
    passes = plan.run()
    assert plan.active.sum() == 0
    # A sequence sent back loses the token of that pass and computes what it had again.
    assert passes.decoding.sum() == sequences * output
    assert passes.prompts.sum() >= sequences * prompt
    if not passes.again:
        assert passes.prompts.sum() == sequences * prompt
    assert np.all(passes.cached <= room + 1e-9)
    if not mixed:
        assert passes.again == 0


def test_sparse_attention_needs_long_contexts():
    rows = run("sparse-attention").rows()
    gains = [r["gain"] for r in rows]
    assert gains == sorted(gains)
    assert gains[-1] > 3


def test_eflop_of_an_answer_is_the_papers_closed_form():
    """Kinetics, equation for one trial: 2 P L + 2 r L_in D L + r D L^2 + 2 I L_in D L + I D L^2."""
    model = load_model("qwen3-8b")
    mixer = model.layers[0].mixer
    values = 2.0 * model.depth * mixer.kv_heads * mixer.head_dim
    group = mixer.heads / mixer.kv_heads
    before, length = 512, 4096
    tokens, share = eflop(model, before + np.arange(length) + 0.5)
    closed = 2.0 * model.active_parameters * length + (group + 562.5) * values * (
        2.0 * before * length + length**2
    )
    assert tokens.sum() == pytest.approx(closed, rel=1e-9)
    # "Attention, rather than parameter count": the smaller the model the more.
    assert share[-1] > 0.9
    assert eflop(load_model("qwen3-0.6b"), np.array(4096.0))[1] > share[-1]


def test_lookahead_multiplies_and_is_bound():
    rows = run("lookahead").rows()
    assert rows[0]["steps"] == pytest.approx(1.0)
    limit = 1 / (0.1 + 0.9 * 0.5)
    assert all(r["steps"] < limit for r in rows)
    assert max(r["both"] for r in rows) > rows[0]["both"]
    assert all(r["gain"] <= r["both"] for r in rows)
    # More throughput to spare makes deeper speculation cheaper.
    strong, weak = run("lookahead", device="h200"), run("lookahead", device="l4")
    assert strong.rows()[-1]["slower"] <= weak.rows()[-1]["slower"]


@given(st.floats(0.05, 0.95), st.integers(1, 8), st.floats(0.01, 0.5))
@settings(max_examples=15, deadline=None)
def test_lookahead_formulas_are_what_simulated_rounds_gain(accepted, depth, cost):
    rng = np.random.default_rng(0)
    rounds = 20_000
    # A round: the model makes the first step itself, `depth` - 1 drafted ones follow it, and those
    # after the first that is refused are lost.
    kept = 1 + (rng.random((rounds, depth - 1)) < accepted).cumprod(axis=1).sum(axis=1)
    gain = kept.mean() / (1.0 + cost * (depth - 1))
    assert step_speedup(depth, accepted, cost) == pytest.approx(gain, rel=0.04)
    # Tokens: `depth` drafted, and one of the model's own whatever happens.
    kept = 1 + (rng.random((rounds, depth)) < accepted).cumprod(axis=1).sum(axis=1)
    gain = kept.mean() / (1.0 + cost * depth)
    assert token_speedup(accepted, depth, cost) == pytest.approx(gain, rel=0.04)


def test_power_cap_adds_servers():
    """POLCA: about 30% more servers on the same budget."""
    rows = run("power-cap", device="a100-80gb-sxm").rows()
    assert 0.1 < rows[0]["more"] < 0.6
    assert rows[-1]["servers"] >= rows[0]["servers"]
    assert rows[-1]["prompt_slowdown"] > rows[-1]["decode_slowdown"]


def test_methods_from_the_command_line(capsys):
    main(["methods", "list"])
    assert "batching-advisor" in capsys.readouterr().out
    main(["methods", "run", "lookahead", "qwen3-32b", "--on", "h200", "--set",
          "step_acceptance=0.6", "--json"])  # fmt: skip
    assert json.loads(capsys.readouterr().out)["rows"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lokahead", "llama-3.1-8b", "--on", "h100-sxm"], "lookahead"),
        (["lookahead", "llama-3.1-8b", "--on", "h100-sxm", "--set", "depth=3"], "no option depth"),
        (["lookahead", "llama-3.1-8b", "--on", "h100-sxm", "--set", "x"], "name=number"),
        (["token-weave", "llama-3.1-8b", "--on", "h100-sxm"], "nothing to hide"),
        (["fiddler", "llama-3.1-8b", "--on", "h100-sxm"], "no routed experts"),
        (["fiddler", "mixtral-8x22b", "--on", "rtx-3080"], "room for two of them"),
        (["moe-lens", "mixtral-8x7b", "--on", "a40", "--set", "cache=1e6"], "of cache"),
        (["spec-prefill", "llama-3.1-8b", "--on", "h100-sxm", "--set", "keep=2"], "at most 1"),
    ],
)
def test_bad_input_is_a_sentence(capsys, arguments, says):
    assert says in fails(capsys, "methods", "run", *arguments)


def row(**given):
    report = run("row-power", "llama-3.1-8b", "a100-80gb-sxm", seconds=200.0, servers=20.0, **given)
    return report.rows(), report.series


def test_a_row_stays_below_its_budget_by_capping():
    rows, series = row(load=0.5)
    assert [r["servers"] for r in rows] == [20, 22, 24, 26, 28, 30][: len(rows)]
    for r in rows:
        assert r["mean"] <= r["peak"] <= 1.05 * r["uncapped"]
        # Slower steps only make requests later, those of the first to slow down most.
        assert r["low_mean"] >= 1.0 - 1e-9
        assert r["low_mean"] >= r["high_mean"] - 0.01
    assert all(r["brakes"] == 0 for r in rows[:-1])
    assert rows[-1]["capped_low"] > 0
    assert rows[-1]["low_mean"] > 1.02
    # Power per server does not depend on how many there are.
    each = [r["uncapped"] / r["servers"] for r in rows]
    assert max(each) < 1.1 * min(each)
    assert {r["servers"] for r in series} == {r["servers"] for r in rows}
    top = [r["watts"] for r in series if r["servers"] == rows[0]["servers"]]
    budget = series[0]["budget_watts"]
    assert max(top) / budget == pytest.approx(rows[0]["peak"])


def test_an_idle_row_is_not_capped():
    rows, _ = row(load=0.02)
    assert all(r["capped_low"] == 0 and r["low_p99"] == r["high_p99"] == 1.0 for r in rows[:3])


def test_power_over_time_is_the_energy_of_the_steps():
    """Readings at full clock sum to what the event log of a plain simulation says."""
    from isoflop.serving.loop.records import N_LOG
    from isoflop.serving.methods.row_power import SAMPLE_S, Level, Row
    from isoflop.serving.simulate import simulate
    from isoflop.serving.traffic.generate import Lengths, open_loop

    step = StepModel(model=load_model("llama-3.1-8b"), plan=Plan(),
                     device=load_accelerator("a100-80gb-sxm"))  # fmt: skip
    settings = find_method("row-power").complete({"seconds": 120.0})
    level = Level.of(step, 1.0, 1280.0)
    trace = open_loop(requests=200, requests_per_s=4.0, prompt=Lengths(median=1024),
                      output=Lengths(median=256))  # fmt: skip
    outcome = Row.of([level] * 4, [trace], settings).run()
    idle, other = step.device.power.idle_watts, settings["other_watts"]
    read = float((outcome.servers_watts - idle - other).sum()) * SAMPLE_S
    instance = simulate(level.server, trace, events=100_000).instances[0]
    log = instance.state.log[: instance.whole(N_LOG)]
    assert log[-1, 0] + log[-1, 1] < 120.0
    assert read == pytest.approx(float(((level.watts(log) - idle) * log[:, 1]).sum()), rel=0.01)


def test_power_over_time_is_written_and_drawn(capsys, tmp_path):
    csv_file, chart = tmp_path / "power.csv", tmp_path / "power.svg"
    main(["methods", "run", "row-power", "llama-3.1-8b", "--on", "a100-80gb-sxm", "--set",
          "seconds=60", "--set", "servers=4", "--out", str(csv_file), "--plot",
          str(chart)])  # fmt: skip
    assert "records written" in capsys.readouterr().out
    lines = csv_file.read_text().splitlines()
    assert lines[0].startswith("servers,time_s,watts,uncapped_watts,budget_watts")
    assert len(lines) > 12
    assert chart.read_text().startswith("<svg")
    assert "no values over time" in fails(capsys, "methods", "run", "lookahead", "llama-3.1-8b",
                                          "--on", "h100-sxm", "--out", str(csv_file))  # fmt: skip


def test_a_capping_policy_has_ordered_thresholds():
    with pytest.raises(InvalidInput, match="first threshold"):
        run("row-power", first=0.95, second=0.9)


def test_two_instances_beat_one_at_its_largest_batch():
    """Mind the Memory Gap, OPT-1.3B on a 64 GB H100: 1.34x from replicas at the chosen batch.

    The host times of the first vLLM engine, fitted on time per token alone, make the gap: one
    instance at 512 sequences leaves the device idle while its host works.
    """
    from isoflop.serving.server import Server
    from isoflop.serving.simulate import simulate
    from isoflop.serving.traffic.generate import Lengths, open_loop

    step = StepModel(
        model=load_model("opt-1.3b"), plan=Plan(formats=Formats(weights="fp16", kv="fp16")),
        device=load_accelerator("h100-64gb"), engine=load_engine("vllm-v0"),
    )  # fmt: skip
    trace = open_loop(requests=2000, requests_per_s=400, prompt=Lengths(median=111, p90=300),
                      output=Lengths(median=292, p90=600))  # fmt: skip
    one = simulate(Server(step=step, max_sequences=512, max_context=2048), trace, drop_long=True)
    two = simulate(
        Server(step=step, max_sequences=128, max_context=2048, share=2), trace, replicas=2,
        drop_long=True,
    )  # fmt: skip
    key = "throughput_output_tokens_per_s"
    assert 1.15 < two.summary[key] / one.summary[key] < 1.5


def test_a_budget_of_latent_attention_is_counted_and_chosen_tokens_are_refused():
    """All heads on one latent of 512 + 64 values, absorbed: 2 (2 x 512 + 64) FLOP per head."""
    model = load_model("deepseek-v3")
    total, share = eflop(model, np.array([131072.0]))
    attention = 131072 * 61 * (2.0 * 128 * 1088 + 562.5 * 2 * 576)
    assert float(share[0] * total[0]) == pytest.approx(attention)
    with pytest.raises(InvalidInput, match="chooses the tokens"):
        run("sparse-attention", "deepseek-v3.2", "b200")
