import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.errors import InvalidInput
from isoflop.serving.steady import ClosedRun, closed_loop, mean_context, static_batch


def decode(sequences, context):
    return 5e-3 + 1e-5 * sequences + 1e-9 * sequences * context


def prefill(prompts, tokens):
    return 1e-3 + 2e-5 * prompts * tokens


@settings(deadline=None, max_examples=50)
@given(c=st.integers(1, 64), p=st.integers(1, 1000), n=st.integers(64, 2000))
def test_littles_law_holds(c, p, n):
    s = closed_loop(decode, prefill, clients=c, prompt_tokens=p, output_tokens=n)
    life = s.ttft_s + (n - 1) * s.tpot_s
    assert float(s.requests_per_s * life) == pytest.approx(c, rel=1e-3)
    assert float(s.batch) <= c + 1e-9


def test_prompts_that_take_nearly_all_of_the_device_slow_tokens_by_their_share():
    # 128 prompts of 4 s in a life of 127 tokens: a token waits for 127 of them over its life.
    s = closed_loop(decode, prefill, clients=128, prompt_tokens=200_000, output_tokens=128)
    life = float(s.ttft_s + 127 * s.tpot_s)
    stolen = 127 * prefill(1, 200_000) / life
    assert float(s.tpot_s) == pytest.approx(
        float(decode(s.batch, 200_064.0)) / (1 - stolen), rel=1e-4
    )
    assert float(s.prefill_share) <= 1.0


def test_prompts_hold_one_stage_of_a_pipeline_at_a_time():
    one, two = (
        closed_loop(decode, prefill, clients=32, prompt_tokens=4000, output_tokens=64, stages=k)
        for k in (1.0, 2.0)
    )
    assert float(two.output_tokens_per_s) > 1.6 * float(one.output_tokens_per_s)


def test_drafts_that_are_accepted_divide_the_step():
    one, two = (
        closed_loop(decode, prefill, clients=1, prompt_tokens=500, output_tokens=200,
                    tokens_per_step=g)
        for g in (1.0, 2.0)
    )  # fmt: skip
    assert float(one.tpot_s) == pytest.approx(2.0 * float(two.tpot_s), rel=1e-6)


def test_one_client_decodes_undisturbed():
    s = closed_loop(decode, prefill, clients=1, prompt_tokens=500, output_tokens=200)
    assert float(s.tpot_s) == pytest.approx(float(decode(1.0, 600.0)), rel=1e-6)
    assert float(s.ttft_s) == pytest.approx(prefill(1, 500), rel=0.15)


def test_time_per_token_grows_with_clients_and_with_prompts():
    s = closed_loop(
        decode, prefill, clients=np.array([1, 8, 64]), prompt_tokens=500, output_tokens=200
    )
    assert np.all(np.diff(s.tpot_s) > 0)
    longer = closed_loop(decode, prefill, clients=64, prompt_tokens=2000, output_tokens=200)
    assert longer.tpot_s > s.tpot_s[-1]


def test_a_static_batch_adds_up():
    s = static_batch(decode, prefill, batch=16, prompt_tokens=100, output_tokens=50)
    total = prefill(16, 100) + 49 * decode(16.0, 125.0)
    assert float(s.output_tokens_per_s) == pytest.approx(16 * 50 / total)


@pytest.mark.parametrize("bad", [0, -3, float("nan")])
def test_impossible_scenarios_are_refused(bad):
    with pytest.raises(InvalidInput, match="at least 1"):
        closed_loop(decode, prefill, clients=bad, prompt_tokens=10, output_tokens=10)


def test_mean_context_equals_a_census_of_running_requests():
    # Renewal process: sample the request in progress at random instants.
    rng = np.random.default_rng(1)
    outputs = rng.geometric(1 / 300.0, 200_000).astype(float)
    ends = np.cumsum(outputs)
    at = rng.uniform(0, ends[-1], 400_000)
    which = np.searchsorted(ends, at)
    age = at - (ends[which] - outputs[which])
    cv = outputs.std() / outputs.mean()
    assert float(mean_context(100.0, outputs.mean(), cv)) == pytest.approx(
        100 + age.mean(), rel=0.01
    )


def test_uncaptured_prompt_steps_slow_small_models_only():
    def run(floor, mixed=False, decode_s=decode):
        return float(
            closed_loop(
                decode_s, prefill, clients=64, prompt_tokens=100, output_tokens=100,
                prompt_floor_s=floor, mixed=mixed,
            ).tpot_s
        )  # fmt: skip

    assert run(20e-3) > 1.5 * run(0.0)
    # A step that decodes anyway hides its own time of the floor.
    assert run(0.0) <= run(20e-3, mixed=True) < run(20e-3)

    def slow(sequences, context):
        return 30e-3 + 0.0 * sequences

    assert run(20e-3, True, slow) == pytest.approx(run(0.0, True, slow))


def census(clients, together, output, shortest, rounds=10, seed=0):
    """Prompts waited for, in a step-by-step run whose steps take one unit per prompt in them."""
    rng = np.random.default_rng(seed)
    waits, left, now = [], {}, 0.0
    served = dict.fromkeys(range(clients), 1)
    queue = [(0.0, i) for i in range(clients)]
    while queue or left:
        batch, queue = queue[:together], queue[together:]
        now += len(batch) + 1e-9
        waits += [now - arrived - 1 for arrived, _ in batch]
        for i in [i for i in left if left[i] <= 1]:
            del left[i]
            if served[i] < rounds:
                served[i] += 1
                queue.append((now, i))
        left = {i: n - 1 for i, n in left.items()}
        for _, i in batch:
            left[i] = rng.integers(int(shortest * output), output + 1) - 1
    return float(np.mean(waits))


@pytest.mark.parametrize(
    ("clients", "together", "output", "shortest"),
    [(4, 1, 1024, 0.8), (16, 1, 1024, 0.8), (128, 1, 1024, 0.8), (64, 8, 1024, 0.8),
     (256, 8, 1024, 0.8), (128, 1, 256, 0.8), (64, 2, 1024, 0.5)],
)  # fmt: skip
def test_waiting_in_a_run_equals_a_census_of_its_steps(clients, together, output, shortest):
    measured = np.mean([census(clients, together, output, shortest, seed=k) for k in range(3)])
    run = ClosedRun(rounds=np.array(10.0), shortest=np.array(shortest))
    mean = (1 + shortest) / 2 * output
    predicted = run.queue(np.array(float(clients)), np.array(float(together)), np.array(mean - 1))
    assert 1 + float(predicted) == pytest.approx(1 + measured, rel=0.12)


def test_a_run_of_one_round_is_its_burst():
    run = ClosedRun(rounds=np.array(1.0), shortest=np.array(0.8))
    waited = run.queue(np.array(9.0), np.array(1.0), np.array(100.0))
    assert float(waited) == pytest.approx(4.0)


def test_steps_the_scheduler_skips_delay_the_first_token_alone():
    def run(lag):
        return closed_loop(
            decode, prefill, clients=1, prompt_tokens=500, output_tokens=200, lag_steps=lag
        )

    late, soon = run(10.0), run(0.0)
    assert float(late.ttft_s - soon.ttft_s) == pytest.approx(10 * float(soon.tpot_s), rel=1e-3)
    assert float(late.tpot_s) == pytest.approx(float(soon.tpot_s))
