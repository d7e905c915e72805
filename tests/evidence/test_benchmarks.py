import pytest
from attrs import evolve

from isoflop.evidence.benchmarks import otherwise_of, protocol_of, unrecorded
from isoflop.evidence.case import Case
from isoflop.evidence.predict import predict_cases
from isoflop.evidence.silicon_rows import silicon_cases
from isoflop.plans import Formats, Plan

CASE = Case(
    line=2, source="", metric="ttft_s", measured=1.0, model="deepseek-ai/DeepSeek-R1",
    device="b200_sxm", engine="sglang", prompt_tokens=1024, output_tokens=1024, concurrency=4.0,
)  # fmt: skip
DUMP = "db-dump/2026-04-27; config_id=636; silicon_concurrency=4"


@pytest.mark.parametrize(
    "origin", [DUMP, "source_file=2026-04-06.csv; model=x", "source_file=a-b-gap-analysis.csv"]
)
def test_runs_of_inference_x_are_ten_rounds_of_uniform_lengths(origin):
    protocol = protocol_of(origin, CASE)
    assert (protocol.rounds, protocol.shortest, protocol.mean_length) == (10.0, 0.8, 0.9)


def test_of_other_runs_nothing_is_known():
    protocol = protocol_of("source_file=/data/h100_sxm/vllm/0.12.0/Qwen_Qwen3-32B.csv", CASE)
    assert (protocol.rounds, protocol.shortest, protocol.wait_steps) == (0.0, 1.0, 0.0)


def test_schedulers_told_to_wait_do():
    def wait(**changes):
        return protocol_of(DUMP, evolve(CASE, **changes)).wait_steps

    assert wait() == 5.0
    assert wait(concurrency=16.0) == 15.0
    assert wait(device="h200_sxm") == 0.0
    assert wait(engine="vllm") == 0.0
    llama = {"engine": "trtllm", "model": "meta-llama/Llama-3.1-70B"}
    assert 10.0 < wait(**llama, concurrency=256.0) < wait(**llama) < 20.0
    assert wait(**llama, plan=Plan(tensor=8)) == wait(**llama, prompt_tokens=8192.0) == 0.0
    assert wait(engine="trtllm", plan=Plan(data=8, expert=8)) == 120.0


def test_mean_lengths_are_priced_and_the_split_does_not_move():
    row = {
        "silicon_data_source": DUMP, "backend": "vllm", "model_path": "meta-llama/Llama-3.1-70B",
        "system": "h200_sxm", "precision": "fp8", "isl": "8192", "osl": "1024", "batch_size": "4",
        "tp_size": "4", "pp_size": "1", "attention_dp_size": "1", "moe_tp_size": "1",
        "moe_ep_size": "1", "silicon_ttft_ms": "468.6", "silicon_tpot_ms": "11.3",
    }  # fmt: skip
    run = silicon_cases(2, row)[0]
    fixed = silicon_cases(2, row | {"silicon_data_source": "silicon_concurrency=4"})[0]
    assert (run.prompt_tokens, run.output_tokens) == pytest.approx((7372.8, 921.6))
    assert (fixed.prompt_tokens, fixed.output_tokens) == (8192, 1024)
    assert run.output_cv == pytest.approx(0.2 / (12**0.5 * 0.9))
    assert run.role == fixed.role


BLOCKS = Formats(weights="fp8-block", experts="fp8-block")
QWEN = "Qwen/Qwen3.5-397B-A17B"
RANKS = Plan(data=8, expert=8)
APRIL = "source_file=2026-04-06.csv; measured={}; image=x/{}"


@pytest.mark.parametrize(
    ("changes", "date", "image", "drafts"),
    [
        ({"engine": "trtllm"}, "2026-02-06T00", "release:1.2.0rc6.post3", 3),
        ({"engine": "trtllm"}, "2026-02-03T00", "release:1.2.0rc6.post2", 0),
        ({"engine": "trtllm"}, "2026-01-14T00", "release:1.1.0rc2.post2", 3),
        ({"engine": "trtllm"}, "2025-12-15T00", "release:1.1.0rc2.post2", 0),
        ({"engine": "trtllm", "plan": RANKS}, "2026-02-06T00", "1.2.0rc6.post3", 1),
        ({"model": QWEN, "plan": Plan(tensor=4, formats=BLOCKS)}, "", "v0.5.9", 3),
        ({"model": QWEN, "plan": Plan(tensor=8, formats=BLOCKS)}, "", "v0.5.9", 0),
        ({"plan": Plan(tensor=8, formats=BLOCKS), "concurrency": 128.0}, "", "v0.5.9", 2),
    ],
)  # fmt: skip
def test_drafts_follow_the_launch_scripts(changes, date, image, drafts):
    protocol = protocol_of(APRIL.format(date, image), evolve(CASE, **changes))
    assert protocol.drafts == drafts
    assert 1.0 <= protocol.tokens_per_step <= 1.0 + drafts
    assert (protocol.tokens_per_step > 1.0) == (drafts > 0)


def test_rows_that_could_be_two_runs_say_so():
    either = evolve(CASE, plan=Plan(tensor=8, formats=BLOCKS))
    other = otherwise_of(APRIL.format("2026-03-25", "sglang:v0.5.9"), either)
    assert other is not None
    assert other.drafts == 2
    assert otherwise_of(DUMP, either) is None
    assert (
        otherwise_of(APRIL.format("", "sglang:v0.5.9"), evolve(either, concurrency=128.0)) is None
    )
    assert "rack-scale" in unrecorded(APRIL.format("", ""), evolve(CASE, plan=Plan(tensor=32)))


@pytest.mark.parametrize(
    ("changes", "plan", "clients"),
    [
        # Several instances behind a router: 448 clients, 56 of them here.
        ({"tp_size": "8", "moe_ep_size": "8", "batch_size": "56", "clients": 448}, (8, 1, 8), 56),
        # Experts over two ranks of one-rank attention: two data ranks share the clients.
        ({"moe_tp_size": "2", "batch_size": "8", "clients": 8}, (1, 2, 1), 8),
        # The same four ranks multiplied twice.
        ({"tp_size": "4", "attention_dp_size": "4", "moe_ep_size": "16", "batch_size": "2",
          "clients": 8}, (4, 1, 4), 8),
    ],
)  # fmt: skip
def test_ranks_and_clients_are_those_of_one_instance(changes, plan, clients):
    row = {
        "backend": "trtllm", "model_path": "deepseek-ai/DeepSeek-V3", "system": "b200_sxm",
        "precision": "fp4", "isl": "4000", "osl": "1000", "tp_size": "1", "pp_size": "1",
        "attention_dp_size": "", "moe_tp_size": "1", "moe_ep_size": "1",
        "silicon_ttft_ms": "468.6", "silicon_tpot_ms": "11.3",
        "silicon_data_source": f"silicon_concurrency={changes['clients']}",
    }  # fmt: skip
    case = silicon_cases(2, row | {k: v for k, v in changes.items() if k != "clients"})[0]
    assert (case.plan.tensor, case.plan.data, case.plan.expert) == plan
    assert case.concurrency == clients


def test_a_row_of_either_run_is_predicted_between_them():
    plan = Plan(tensor=8, formats=BLOCKS)
    one = evolve(CASE, metric="tpot_s", plan=plan, protocol=protocol_of(DUMP, CASE))
    drafted = evolve(one.protocol, drafts=2, acceptance=0.54)
    cases = [one, evolve(one, protocol=drafted), evolve(one, otherwise=drafted)]
    slow, fast, either = predict_cases(cases)
    assert fast.predicted < either.predicted < slow.predicted
    assert either.predicted**2 == pytest.approx(fast.predicted * slow.predicted)
    assert (either.low, either.high) == (fast.low, slow.high)
