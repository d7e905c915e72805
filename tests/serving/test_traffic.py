"""Traces and generators."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.errors import InvalidInput
from isoflop.serving.traffic import generate as g
from isoflop.serving.traffic import read_trace
from tests.shared_data import data as shared


@pytest.mark.parametrize(
    ("name", "ratio"), [("mooncake_conversation", 0.366), ("mooncake_synthetic", 0.640)]
)
def test_mooncake_block_hit_ratios(name, ratio):
    # Published in Mooncake's repository for a cache without limit.
    trace = read_trace(shared(f"traces/{name}.jsonl"))
    assert round(trace.infinite_cache_hit_ratio(), 3) == ratio


def test_azure_trace():
    trace = read_trace(shared("traces/AzureLLMInferenceTrace_2023_conv.csv"))
    assert len(trace) == 19366
    assert trace.prompt_tokens.mean() == pytest.approx(1154.7, abs=0.1)
    doubled = trace.scaled(2.0)
    assert doubled.requests_per_s == pytest.approx(2 * trace.requests_per_s)
    np.testing.assert_allclose(doubled.arrival_s * 2, trace.arrival_s)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("arrival_s,prompt_tokens,output_tokens\n0,5,5\n1,,5\n", "Line 3 .* no prompt_tokens"),
        ("arrival_s,prompt_tokens,output_tokens\n0,5,5\n1,-3,5\n", "Line 3 .* at least 1"),
        ("arrival_s,prompt_tokens,output_tokens\n2,5,5\n1,5,5\n", "Line 3 .* before the one"),
        ("arrival_s,prompt_tokens,output_tokens\n-2,5,5\n1,5,5\n", "Line 2 .* negative"),
        ("arrival_s,prompt_tokens,output_tokens\nx,5,5\n", "Line 2 .* not a number"),
        ("arrival_s,output_tokens\n0,5\n", "no column prompt_tokens"),
        ("time,words\n1,2\n", "not one of a known trace"),
        ("", "is empty"),
        ('{"timestamp": 0, "input_length": 4}\n', "Line 1 .* no output_length"),
        ('{"timestamp": 0, "input_length": 0, "output_length": 1}\n', "at least 1"),
        ('{"timestamp": 0, "input_length": 4, "output_length": 1}\n{oops\n', "Line 2 .* not JSON"),
        # A blank line does not shift the number.
        ("arrival_s,prompt_tokens,output_tokens\n0,5,5\n\n1,5,x\n", "Line 4 .* not a number"),
        ("arrival_s,prompt_tokens,output_tokens\nnan,5,5\n", "Line 2 .* no arrival time"),
        ("arrival_s,prompt_tokens,output_tokens\n1700000000000,5,5\n", "Line 2 .* give seconds"),
        ("arrival_s,prompt_tokens,output_tokens\n0,1e300,5\n", "Line 2 .* at most 2,147,483,647"),
        ("arrival_s,prompt_tokens,output_tokens\n0,5,inf\n", "Line 2 .* whole number"),
        ("arrival_s,prompt_tokens,output_tokens\n0,10.5,5\n", "Line 2 .* whole number"),
        ("arrival_s,prompt_tokens,output_tokens\n0,5,0\n", "Line 2 .* at least 1"),
        ("arrival_s,prompt_tokens,output_tokens\n0,1,020,5\n", "Line 2 .* 4 fields, its header 3"),
        ('arrival_s,prompt_tokens,output_tokens\n0,"1,020",5\n', "Line 2 .* not a number"),
        ("arrival_s,prompt_tokens,prompt_tokens,output_tokens\n0,1,2,5\n", "more than one column"),
        ("arrival_s,prompt_tokens,output_tokens,priority\n0,1,2,nan\n", "Line 2 .* priority"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-16 18:17:03.1,5,5\n", "Line 2 .* time"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "has no requests"),
        ('{"timestamp": "a", "input_length": 4, "output_length": 1}\n', "Line 1 .* not a number"),
        ('{"timestamp": 0, "input_length": null, "output_length": 1}\n', "Line 1 .* not a number"),
        ('{"timestamp": 0, "input_length": 1' + "0" * 400 + ', "output_length": 1}\n', "at most"),
        ('\n{"timestamp": 0, "input_length": 4, "output_length": 1, "hash_ids": 7}\n',
         "Line 2 .* hash_ids"),
        ('{"arrival_time": null, "input_toks": 4, "output_toks": 1}\n', "Line 1 .* not a number"),
        ('{"arrival_time": NaN, "input_toks": 4, "output_toks": 1}\n', "Line 1 .* no arrival time"),
    ],
)  # fmt: skip
def test_bad_traces_name_the_line(tmp_path, text, says):
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=says):
        read_trace(path)


@pytest.mark.parametrize(
    ("before", "line_end", "pack"),
    [
        ("", "\n", False), ("", "\r\n", False), ("\ufeff", "\r\n", False), ("\n \n", "\n", False),
        ("", "\n", True),
    ],
)  # fmt: skip
def test_marks_line_ends_blank_lines_and_gzip_change_nothing(tmp_path, before, line_end, pack):
    rows = ["Output_Tokens, arrival_s ,note,PROMPT_TOKENS", '5,0,"a, b",10', "", "6,1.5,,20.0", " "]
    raw = (before + line_end.join(rows)).encode()
    path = tmp_path / "trace"
    path.write_bytes(gzip.compress(raw) if pack else raw)
    trace = read_trace(path)
    assert trace.arrival_s.tolist() == [0.0, 1.5]
    assert trace.prompt_tokens.tolist() == [10, 20]
    assert trace.output_tokens.tolist() == [5, 6]


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "trace"
    broken = gzip.compress(b"arrival_s")[:-4]
    for raw, says in ((b"\xff\x00", "not text"), (broken, "broken gzip"), (b"\n\n", "empty")):
        path.write_bytes(raw)
        with pytest.raises(InvalidInput, match=says):
            read_trace(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_trace(tmp_path)


def test_users_may_have_names(tmp_path):
    path = tmp_path / "trace"
    path.write_text("arrival_s,prompt_tokens,output_tokens,user\n0,1,1,ann\n1,1,1,bob\n2,1,1,ann\n")
    assert read_trace(path).user.tolist() == [0, 1, 0]


def test_gamma_gaps_have_the_asked_variation():
    rng = np.random.default_rng(0)
    for burstiness in (0.25, 1.0, 4.0):
        gaps = np.diff(g.gamma_arrivals(rng, 200_000, 10.0, burstiness))
        assert gaps.mean() == pytest.approx(0.1, rel=0.02)
        assert (gaps.std() / gaps.mean()) ** 2 == pytest.approx(1 / burstiness, rel=0.03)


def test_lengths_have_the_asked_percentiles():
    rng = np.random.default_rng(0)
    drawn = g.Lengths.parse("500/2000").draw(rng, 200_000)
    assert np.median(drawn) == pytest.approx(500, rel=0.01)
    assert np.percentile(drawn, 90) == pytest.approx(2000, rel=0.02)


def test_lengths_take_the_suffixes_that_other_counts_take():
    assert g.Lengths.parse("2k/8Ki") == g.Lengths(median=2000, p90=8192)
    for text in ("2.5", "-3", "1/2/3", "", "/", "1 k t", "nan"):
        with pytest.raises(InvalidInput, match="is not a length"):
            g.Lengths.parse(text)


def test_diurnal_traffic_swings():
    trace = g.open_loop(requests=50_000, requests_per_s=10, prompt=g.Lengths(median=5),
                        output=g.Lengths(median=5), diurnal=0.8, period_s=1000.0)  # fmt: skip
    phase = (trace.arrival_s % 1000.0) / 1000.0
    busy = np.mean((phase > 0.0) & (phase < 0.5))
    # Integral of 1 + 0.8 sin over the first half: 0.5 + 0.8 / pi.
    assert busy == pytest.approx(0.5 + 0.8 / np.pi, abs=0.02)


def test_demo_trace_is_what_its_formula_gives():
    from isoflop.serving.demo import demo_file, demo_trace

    assert demo_file().read_text() == demo_trace()


def test_generated_traffic_takes_lengths_from_a_trace():
    like = g.open_loop(requests=500, requests_per_s=1, prompt=g.Lengths(median=700, p90=3000),
                       output=g.Lengths(median=90, p90=400), seed=5)  # fmt: skip
    made = g.open_loop(requests=4000, requests_per_s=7, prompt=g.Lengths(median=1),
                       output=g.Lengths(median=1))  # fmt: skip
    mixed = g.with_lengths_of(made, like)
    np.testing.assert_array_equal(mixed.arrival_s, made.arrival_s)
    pairs = set(zip(like.prompt_tokens.tolist(), like.output_tokens.tolist(), strict=True))
    assert (
        set(zip(mixed.prompt_tokens.tolist(), mixed.output_tokens.tolist(), strict=True)) <= pairs
    )
    assert mixed.prompt_tokens.mean() == pytest.approx(like.prompt_tokens.mean(), rel=0.1)


@given(st.integers(64, 8192), st.integers(1, 600), st.integers(1, 4), st.integers(1, 200))
def test_generated_lengths_fit_the_model(longest, prompt, spread, output):
    """Tails are cut, constants and medians are not."""
    lengths = (
        g.Lengths(median=prompt, p90=prompt * spread),
        g.Lengths(median=output, p90=output * 3),
    )
    cut = g.within(*lengths, longest)
    made = g.open_loop(requests=300, requests_per_s=1.0, prompt=cut[0], output=cut[1])
    if spread > 1 and prompt + max(longest // 4, output) <= longest:
        assert (made.prompt_tokens + made.output_tokens).max() <= longest
    assert ("cut to" in g.say_cut(made, *cut).name) == any(
        drawn.max() >= most.most
        for drawn, most in zip((made.prompt_tokens, made.output_tokens), cut)
    )
    same = g.within(g.Lengths(median=9000, p90=9000), g.Lengths(median=9, p90=9), longest)
    assert same[0].most == same[1].most == 1 << 30
