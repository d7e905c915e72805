"""A learned optimizer: gradients by differences, Adam by its definition, rules by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.errors import InvalidInput
from isoflop.training.learned import (
    FEATURES,
    Evolution,
    Run,
    State,
    adam,
    cooled,
    evaluate,
    features,
    initial,
    learned,
    loss_and_gradient,
    rule_size,
    train_rule,
)
from isoflop.training.methods.learned_optimizer_trained import RATES, reached, tuned
from isoflop.training.update import perceptron_flop
from tests.training.test_methods import run


def test_gradients_are_those_of_differences():
    rng = np.random.default_rng(0)
    here = Run.start(3, rng)
    x, y = here.tasks.samples(rng)
    _, gradients = loss_and_gradient(here.weights, x, y)
    for i, g in enumerate(gradients):
        moved = rng.standard_normal(g.shape)
        ends = []
        for sign in (1e-6, -1e-6):
            w = tuple(v + sign * moved if i == j else v for j, v in enumerate(here.weights))
            ends.append(loss_and_gradient(w, x, y)[0])
        np.testing.assert_allclose(
            (ends[0] - ends[1]) / 2e-6, (g * moved).sum(axis=(1, 2)), rtol=1e-5, atol=1e-8
        )


def test_adam_is_adam():
    rng = np.random.default_rng(0)
    weights = tuple(rng.standard_normal((1, 2, 3)) for _ in range(2))
    state, expected = State.zero(weights), [w.copy() for w in weights]
    first, second = np.zeros((2, 1, 2, 3)), np.zeros((2, 1, 2, 3))
    rule = adam(0.05)
    for t in range(1, 6):
        gradients = tuple(rng.standard_normal((1, 2, 3)) for _ in range(2))
        state.observe(gradients)
        weights = rule(weights, gradients, state)
        for i, g in enumerate(gradients):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.99 * second[i] + 0.01 * g * g
            m, v = first[i] / (1 - 0.9**t), second[i] / (1 - 0.99**t)
            expected[i] -= 0.05 * m / (np.sqrt(v) + 1e-8)
    for w, e in zip(weights, expected, strict=True):
        np.testing.assert_allclose(w, e, rtol=1e-9)


def test_a_rule_of_one_feature_is_written_by_hand():
    # Hidden unit 0 reads the second momentum over the root, unit 1 its negative: their difference.
    rng = np.random.default_rng(1)
    weights = initial(2, rng)
    gradients = tuple(rng.standard_normal(w.shape) for w in weights)
    state = State.zero(weights)
    state.observe(gradients)
    theta = np.zeros(rule_size(2))
    at = 8  # gradient, weight, root, three momenta, gradient and the first momentum over the root
    theta[2 * at], theta[2 * at + 1] = 1.0, -1.0
    theta[2 * FEATURES + 2] = 1.0
    theta[2 * FEATURES + 4] = -1.0
    moved = learned(np.repeat(theta[None], 2, axis=0), 2)(weights, gradients, state)
    by_adam = adam(0.1)(weights, gradients, state)
    for a, b in zip(moved, by_adam, strict=True):
        np.testing.assert_allclose(a, b)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_features_do_not_see_the_scale_of_the_loss(scale, seed):
    rng = np.random.default_rng(seed)
    w, found = initial(2, rng), []
    gradients = [tuple(rng.standard_normal(v.shape) for v in w) for _ in range(3)]
    for factor in (1.0, scale):
        state = State.zero(w)
        for g in gradients:
            state.observe(tuple(factor * v for v in g))
        found.append(features(w[0], factor * gradients[-1][0], state, 0))
    assert found[0].shape[-1] == FEATURES
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_training_makes_a_rule_that_trains_what_it_never_saw():
    start, _ = train_rule(4, 1, np.random.default_rng(3), Evolution(horizon=40, rate=0.0))
    theta, curve = train_rule(4, 60, np.random.default_rng(3), Evolution(horizon=40))
    assert curve[-12:].mean() < 0.8 * curve[:4].mean()
    before, after = (
        evaluate(learned(np.repeat(t[None], 32, axis=0), 4), 40, 32, 9) for t in (start, theta)
    )
    assert after[-5:].mean() < 0.5 * before[-5:].mean()


def test_tuning_looks_at_other_tasks_and_stays_inside_its_grid():
    for name in RATES:
        rate, curve = tuned(name, 60)
        assert len(curve) == 60
        assert rate in RATES[name]
    slow, fast = (evaluate(cooled(adam, r, 40), 40, 16, 1)[-1] for r in (0.001, 0.1))
    assert fast < slow


def test_the_table_weighs_steps_with_what_they_cost():
    rows = run("learned-optimizer-trained", "llama-3.2-1b", "h100-sxm", updates=20.0).rows()
    base, ours = rows[1], rows[-1]
    assert base["steps"] is not None
    assert base["time"] == 1.0
    assert ours["flop_per_parameter"] == perceptron_flop(FEATURES, 8, 1)
    assert ours["overhead"] > base["overhead"]
    for r in rows:
        if r["steps"] is not None:
            own, adams = (x["steps"] * (1 + x["overhead"]) for x in (r, base))
            assert r["time"] == pytest.approx(own / adams)
    assert reached(np.full(20, 2.0), 1.0) is None
    assert reached(np.r_[np.full(5, 2.0), np.full(15, 1.0)], 1.0) == 15
    with pytest.raises(InvalidInput, match="between 1 and"):
        run("learned-optimizer-trained", updates=1e6)
