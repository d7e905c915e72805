"""Huffman codes: shortest, uniquely decoded, and as many bits as they say."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.errors import InvalidInput
from isoflop.numerics.huffman import HuffmanCode


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.integers(-40, 40), min_size=1, max_size=300))
def test_round_trip_and_length(values):
    values = np.array(values)
    code = HuffmanCode.of(values)
    stream = code.encode(values)
    assert len(stream) == -(-code.bits(values) // 8)
    assert np.array_equal(code.decode(stream, len(values)), values)
    used = code.lengths[code.lengths > 0].astype(float)
    assert (2.0**-used).sum() == (1.0 if len(used) > 1 else 0.5)  # Kraft: no word could be shorter
    share = np.unique(values, return_counts=True)[1] / len(values)
    entropy = -(share * np.log2(share)).sum()
    assert entropy - 1e-9 <= code.bits(values) / len(values) <= max(entropy + 1 - 1e-9, 1)


def test_no_other_complete_code_is_shorter():
    counts = np.array([7, 1, 1, 3, 2])
    values = np.repeat(np.arange(5), counts)
    complete = [
        lengths for lengths in itertools.product(range(1, 5), repeat=5)
        if sum(2.0**-n for n in lengths) <= 1
    ]  # fmt: skip
    best = min(int(np.dot(counts, lengths)) for lengths in complete)
    assert HuffmanCode.of(values).bits(values) == best


def test_wrong_input():
    with pytest.raises(InvalidInput, match="of integers"):
        HuffmanCode.of(np.array([0.5]))
    code = HuffmanCode.of(np.array([3, 3, 4]))
    with pytest.raises(InvalidInput, match="ends after 8 of 9"):
        code.decode(code.encode(np.array([3] * 8)), 9)
