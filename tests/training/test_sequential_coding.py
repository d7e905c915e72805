import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.errors import InvalidInput
from isoflop.training.methods.gradient_coding import cyclic_code, decode
from isoflop.training.sequential_coding import Coded, Multiplexed, SelectiveRepetition


def test_loads_of_the_paper_on_256_workers():
    # Krishnan et al. 2023, section 4: 0.008 for M-SGC, 0.051 for SR-SGC, 0.0625 for GC.
    assert Multiplexed(256, 1, 2, 27).load == pytest.approx(28 * 2 / (256 * 29))
    assert SelectiveRepetition(256, 2, 3, 23).stragglers == 12
    assert SelectiveRepetition(256, 2, 3, 23).load == pytest.approx(13 / 256)
    assert Coded(256, 15).load == pytest.approx(1 / 16)
    assert Multiplexed(256, 1, 2, 27).delay == 1


@given(burst=st.integers(1, 4), more=st.integers(1, 5), spread=st.integers(0, 9))
def test_the_parts_of_a_multiplexed_job_are_one_job(burst, more, spread):
    n, window = 10, burst + more
    scheme = Multiplexed(n, burst, window, spread)
    mini = scheme.load / (window - 1 + burst)  # a plain part, and lambda + 1 coded chunks
    chunk = mini / (spread + 1)
    assert n * (window - 1) * mini + burst * n * chunk == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), burst=st.integers(1, 3), more=st.integers(1, 3),
       spread=st.integers(0, 7), share=st.floats(0.0, 0.5))  # fmt: skip
def test_every_multiplexed_job_is_whole_in_time(seed, burst, more, spread, share):
    rng = np.random.default_rng(seed)
    pace = np.where(rng.random((40, 8)) < share, 9.0, 1.0) * rng.uniform(1.0, 1.2, (40, 8))
    scheme = Multiplexed(8, burst, burst + more, spread)
    spent = scheme.durations(pace, 0.5)  # raises if a job is not whole
    times = pace * scheme.load
    assert np.all(spent <= times.max(axis=1) + 1e-12)
    assert np.all(spent >= times.min(axis=1) - 1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), burst=st.integers(1, 3), times=st.integers(1, 3),
       spread=st.integers(1, 7), share=st.floats(0.0, 0.5))  # fmt: skip
def test_repetition_never_waits_for_more_than_all(seed, burst, times, spread, share):
    rng = np.random.default_rng(seed)
    pace = np.where(rng.random((40, 8)) < share, 9.0, 1.0) * rng.uniform(1.0, 1.2, (40, 8))
    scheme = SelectiveRepetition(8, burst, times * burst + 1, spread)
    spent = scheme.durations(pace, 0.5)
    assert np.all(spent <= pace.max(axis=1) * scheme.load + 1e-12)


def test_without_stragglers_nothing_is_waited_for():
    pace = np.ones((20, 6))
    for scheme in (Coded(6, 2), SelectiveRepetition(6, 1, 2, 3), Multiplexed(6, 1, 2, 3)):
        spent = scheme.durations(pace)
        assert spent[: 20 - scheme.delay] == pytest.approx(scheme.load)


def test_one_straggler_a_round_costs_multiplexing_nothing_and_the_uncoded_all():
    pace = np.ones((30, 6))
    pace[np.arange(30), np.arange(30) % 6] = 10.0
    scheme = Multiplexed(6, 1, 2, 2)
    assert scheme.durations(pace, 0.1) == pytest.approx(1.1 * scheme.load)
    assert Coded(6, 0).durations(pace) == pytest.approx(10.0 / 6)
    # A worker slow twice within the window is waited for.
    pace[20:22, 0] = 10.0
    scheme = Multiplexed(6, 1, 2, 4)
    assert scheme.durations(pace, 0.1)[20:23] / scheme.load == pytest.approx([1.1, 10.0, 1.1])


def test_a_coded_group_is_decoded_from_what_is_left():
    scheme = Multiplexed(8, 1, 2, 3)
    code = cyclic_code(8, scheme.spread, seed=1)
    gradients = np.random.default_rng(0).standard_normal((8, 5))
    alive = np.ones(8, bool)
    alive[[1, 4, 6]] = False
    weights = decode(code, alive)
    assert weights @ (code @ gradients)[alive] == pytest.approx(gradients.sum(axis=0))


@pytest.mark.parametrize("make", [
    lambda: Coded(4, 4), lambda: SelectiveRepetition(8, 2, 4, 3), lambda: Multiplexed(8, 2, 2, 3),
    lambda: Multiplexed(8, 1, 2, 8), lambda: Coded(4, 1).durations(np.ones((3, 5))),
    lambda: Multiplexed(4, 1, 2, 1).durations(np.ones((1, 4))),
])  # fmt: skip
def test_impossible_schemes_are_sentences(make):
    with pytest.raises(InvalidInput):
        make()
