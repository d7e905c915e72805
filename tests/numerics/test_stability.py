"""Training under fewer mantissa bits: exact gradients, sharpness in closed form, and the order."""

import numpy as np
import pytest

from isoflop.errors import InvalidInput
from isoflop.numerics import round_to, stability
from isoflop.numerics.tiny_transformer import VOCAB, TinyTransformer, draw, train


def cross_entropy(z, target):
    return np.log(np.exp(z - z.max()).sum()) + z.max() - z[target]


def test_sharpness_is_the_largest_rise_over_every_corner_of_the_box():
    rng = np.random.default_rng(0)
    z, targets, radius = rng.standard_normal((5, 6)) * 3, rng.integers(0, 6, 5), 0.05
    got = stability.logit_sharpness(z, targets, radius)
    corners = np.stack(np.meshgrid(*[[-1, 1]] * 6), -1).reshape(-1, 6)
    for row, target, value in zip(z, targets, got):
        flat = cross_entropy(row, target)
        step = radius * (np.abs(row) + 1)
        worst = max(cross_entropy(row + c * step, target) for c in corners)
        assert value == pytest.approx(100 * (worst - flat) / (1 + flat), rel=1e-10)
        inside = [cross_entropy(row + rng.uniform(-1, 1, 6) * step, target) for _ in range(200)]
        assert max(inside) <= worst
    assert np.all(stability.logit_sharpness(z, targets, 2 * radius) > got)


@pytest.mark.parametrize(
    ("shape", "targets", "radius", "match"),
    [((2, 3), [0], 1e-3, "do not match"), ((1, 3), [3], 1e-3, "vocabulary"),
     ((1, 3), [0], 0.0, "above 0"), ((1, 3), [0], np.nan, "above 0")],
)  # fmt: skip
def test_bad_sharpness_input_says_why(shape, targets, radius, match):
    with pytest.raises(InvalidInput, match=match):
        stability.logit_sharpness(np.zeros(shape), np.array(targets), radius)


def test_gradients_equal_differences():
    model = TinyTransformer(None, seed=3)
    model.weights = {n: x.astype(np.float64) for n, x in model.weights.items()}
    rng = np.random.default_rng(4)
    tokens, wanted = draw(rng, batch=3)
    _, slopes = model.loss(tokens, wanted)
    for name, x in model.weights.items():
        direction = rng.standard_normal(x.shape)
        ends = []
        for sign in (1, -1):
            model.weights[name] = x + sign * 1e-5 * direction
            ends.append(model.loss(tokens, wanted)[0])
        model.weights[name] = x
        expected = (ends[0] - ends[1]) / 2e-5
        assert np.sum(slopes[name] * direction) == pytest.approx(expected, rel=1e-4), name


def test_every_product_takes_operands_with_their_low_bits_masked():
    rng = np.random.default_rng(5)
    a, b = (rng.standard_normal((4, 4)).astype(np.float32) for _ in range(2))
    masked = [(x.view(np.uint32) & np.uint32(0xFFF00000)).view(np.float32) for x in (a, b)]
    assert np.array_equal(TinyTransformer("e8m3").product(a, b), masked[0] @ masked[1])
    nearest = TinyTransformer("e8m3", rounding="nearest_even").product(a, b)
    assert np.array_equal(nearest, round_to(a, "e8m3") @ round_to(b, "e8m3"))


def test_a_run_that_explodes_counts_as_diverged():
    with np.errstate(all="ignore"):
        (record,) = stability.bit_reduction((None,), steps=40, seeds=(0,), learning_rate=1e4)
    assert record["diverged"] == 1
    assert record["loss"] > np.log(VOCAB)
    with pytest.raises(InvalidInput, match="at least 20 steps"):
        stability.bit_reduction(steps=5)


def test_a_trained_model_evaluates_worse_with_every_bit_less():
    exact, losses = train(None, steps=300, learning_rate=3e-3)
    assert losses[-20:].mean() < 0.1 < 2 < losses[0]
    tokens, wanted = draw(np.random.default_rng(8), batch=64)
    evaluated = []
    for name in (None, "e8m7", "e8m4", "e8m2", "e8m1"):
        model = TinyTransformer(name)
        model.weights = exact.weights
        evaluated.append(model.loss(tokens, wanted)[0])
    assert evaluated[1] == pytest.approx(evaluated[0], rel=0.2)
    assert evaluated[1:] == sorted(evaluated[1:])
    assert evaluated[-1] > 2 * evaluated[0]


@pytest.mark.slow
def test_training_survives_bfloat16_operands():
    full, reduced = stability.bit_reduction((None, "e8m7"), steps=300, seeds=(0,))
    assert full["loss"] < 0.1
    assert reduced["loss"] == pytest.approx(full["loss"], rel=0.2)
    assert full["diverged"] == reduced["diverged"] == 0
    assert reduced["sharpness_percent"] > 0
