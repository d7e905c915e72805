"""Cramming's recipe: its budget integrals against a loop, packing against drawn documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.errors import DoesNotFit
from isoflop.models import load_model
from isoflop.training.methods.cramming_recipe import (
    Ramp,
    crammed_bert,
    filled,
    learning_rate,
)
from tests.training.test_methods import run


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.0, 1.0), first=st.integers(1, 64), more=st.integers(0, 512),
       sequence=st.floats(1e-3, 1e-2), update=st.floats(0.0, 0.5))  # fmt: skip
def test_updates_and_sequences_equal_a_step_by_step_day(share, first, more, sequence, update):
    ramp = Ramp(seconds=86400.0, share=share, first=first, full=first + more, sequence_s=sequence,
                update_s=update)  # fmt: skip
    now, updates, seen = 0.0, 0, 0.0
    # As if each update stood for `scale` of them, so that a day is a few thousand steps.
    scale = ramp.updates() / 4000.0
    while now < 86400.0:
        grown = min(1.0, now / (share * 86400.0)) if share else 1.0
        batch = first + more * grown
        now += scale * (batch * sequence + update)
        updates, seen = updates + 1, seen + batch
    assert updates * scale == pytest.approx(ramp.updates(), rel=0.02)
    assert seen * scale == pytest.approx(ramp.sequences(), rel=0.02)


@given(mean=st.floats(2.0, 600.0), length=st.sampled_from([64, 128, 512]))
@settings(max_examples=15, deadline=None)
def test_padding_equals_that_of_drawn_documents(mean, length):
    drawn = np.random.default_rng(0).geometric(1.0 / mean, 60_000)
    found = drawn.sum() / (np.ceil(drawn / length).sum() * length)
    assert filled(mean, length) == pytest.approx(found, rel=0.02)


def test_the_learning_rate_is_a_triangle():
    shares = np.linspace(0.0, 1.0, 401)
    rates = [learning_rate(s) for s in shares]
    assert (rates[0], max(rates), rates[-1]) == (0.25, 1.0, 0.0)
    assert shares[int(np.argmax(rates))] == 0.75


def test_the_architecture_has_the_size_of_the_published_weights():
    model = crammed_bert(load_model("bert-base"))
    assert 4.0 * model.parameters == pytest.approx(478e6, rel=0.005)


def test_each_part_of_the_recipe_gives_what_it_should():
    rows = run("cramming-recipe", "bert-base", "rtx-a6000", 128).rows()
    by = {r["recipe"]: r for r in rows}
    assert by["packed"]["text_tokens"] / by["as BERT"]["text_tokens"] == pytest.approx(
        1.0 / filled(400.0, 128), rel=1e-6)  # fmt: skip
    assert by["sparse prediction"]["text_tokens"] > 1.05 * by["packed"]["text_tokens"]
    # The ramp makes more updates of nearly as many tokens.
    ramp, flat = by["batch ramp"], by["sparse prediction"]
    assert ramp["updates"] > 1.5 * flat["updates"]
    assert 0.98 < ramp["text_tokens"] / flat["text_tokens"] <= 1.0
    # A day of a consumer card is billions of tokens of a model of this size.
    assert 2e9 < ramp["text_tokens"] < 4e10
    with pytest.raises(DoesNotFit, match="Not one sequence"):
        run("cramming-recipe", "bert-base", "edge-tpu", 128)
