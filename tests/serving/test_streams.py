"""Tasks on streams: order of issue, waiting, many cases at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.serving.streams import Streams


def test_a_stream_does_one_thing_at_a_time():
    s = Streams()
    a = s.add("gpu", "a", 2.0)
    s.add("gpu", "b", 3.0)
    s.add("link", "c", 4.0, [a])
    assert [(t.start_s, t.end_s) for t in s.tasks] == [(0.0, 2.0), (2.0, 5.0), (2.0, 6.0)]
    assert s.total_s == 6.0
    assert {k: float(v) for k, v in s.busy_s().items()} == {"gpu": 5.0, "link": 4.0}


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 10), st.lists(st.integers(0, 30))),
                min_size=1, max_size=30))  # fmt: skip
def test_total_is_between_the_busiest_stream_and_the_sum(work):
    s = Streams()
    for i, (stream, seconds, after) in enumerate(work):
        s.add(str(stream), "", seconds, [a % i for a in after if i])
    busiest = max(float(v) for v in s.busy_s().values())
    assert busiest - 1e-9 <= s.total_s <= sum(w[1] for w in work) + 1e-9


def test_arrays_are_cases_apart():
    seconds = np.array([[1.0, 5.0], [2.0, 0.5]])
    both = Streams()
    both.add("x", "", 2.0)
    both.add("y", "", seconds, [0])
    both.add("x", "", 3.0, [1])
    for i in np.ndindex(2, 2):
        one = Streams()
        one.add("x", "", 2.0)
        one.add("y", "", seconds[i], [0])
        one.add("x", "", 3.0, [1])
        assert both.total_s[i] == pytest.approx(float(one.total_s))
