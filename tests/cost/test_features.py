import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.cost.features import Batch, experts_touched, keys, pairs
from isoflop.errors import InvalidInput


@given(q=st.integers(0, 60), c=st.integers(0, 60), w=st.integers(0, 40))
def test_pairs_and_keys_equal_a_count_of_every_pair(q, c, w):
    seen, total = set(), 0
    for i in range(1, q + 1):
        low = max(0, c + i - w) if w else 0
        window = range(low, c + i)
        total += len(window)
        seen.update(window)
    assert pairs(q, c, w) == pytest.approx(total)
    if q:
        assert keys(q, c, w) == pytest.approx(len(seen))


@given(t=st.integers(0, 40), k=st.integers(1, 4))
def test_experts_touched_lies_between_its_bounds(t, k):
    value = float(experts_touched(t, 16, k))
    assert value <= min(16, t * k) + 1e-9
    assert value >= (k if t else 0) - 1e-9


def test_experts_touched_against_simulation():
    rng = np.random.default_rng(0)
    draws = [
        len(set(np.concatenate([rng.choice(32, 4, replace=False) for _ in range(10)])))
        for _ in range(2000)
    ]
    assert float(experts_touched(10, 32, 4)) == pytest.approx(np.mean(draws), rel=0.01)


def test_a_batch_refuses_nan_and_negative_values():
    for bad in (float("nan"), -1.0, float("inf")):
        with pytest.raises(InvalidInput, match="finite and not negative"):
            Batch(decode_sequences=bad)
