"""Training recipes: unbiased gradients, and a transformer that learns under each."""

import json

import numpy as np
import pytest
from scipy import optimize, stats

from isoflop.errors import InvalidInput
from isoflop.numerics import load_format, recipes, round_to, stability, training
from isoflop.numerics.tiny_transformer import VOCAB, train


@pytest.mark.parametrize("name", ["quartet", "nvfp4", "mxfp4"])
def test_gradients_are_unbiased_unless_the_scale_clips(name):
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((40, 64), (24, 64)))
    slope = rng.standard_normal((40, 24)).astype(np.float32)
    recipe = recipes.find(name)
    y, kept = recipe.forward(x, w)
    assert np.linalg.norm(y - x @ w.T) < 0.35 * np.linalg.norm(x @ w.T)
    exact = recipe.finishing().backward(kept, slope, 0)
    draws = [recipe.backward(kept, slope, seed) for seed in range(400)]
    for which in (0, 1):
        each = np.array([d[which] for d in draws]) - exact[which]
        one = np.linalg.norm(each[0])
        assert one > 0.02 * np.linalg.norm(exact[which])
        drift = np.linalg.norm(each.mean(0)) / (one / np.sqrt(400))
        # MX scales round down, so the largest values clip: what Quartet's factor of 3/4 is for
        assert drift > 4 if name == "mxfp4" else drift < 2.5


def test_quartet_is_its_published_steps():
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((32, 32), (32, 32)))
    w[3] *= 30
    slope = rng.standard_normal((32, 32)).astype(np.float32)
    y, kept = recipes.Quartet().forward(x, w)
    (x_q, x_mask), (w_q, w_mask) = (training.quartet_forward(training.rotate(m)) for m in (x, w))
    assert np.array_equal(y, x_q @ w_q.T)
    to_x, to_w = recipes.Quartet(exact_backward=True).backward(kept, slope, 0)
    h = training.hadamard(32)
    assert np.allclose(to_x, ((slope @ w_q) * x_mask) @ h.T, atol=1e-4)
    assert np.allclose(to_w, ((slope.T @ x_q) * w_mask) @ h.T, atol=1e-4)
    assert not x_mask.all()  # something was clipped, so the masks matter
    with pytest.raises(InvalidInput, match="does not divide"):
        recipes.Quartet().forward(x[:, :31], w[:, :31])


def test_the_forward_range_is_the_least_squares_one_of_the_grid():
    # Squared error of N(0, 1) on the grid of E2M1 scaled to reach c, in closed form per interval.
    grid = np.unique(np.abs(load_format("fp4-e2m1").values))

    def error(c):
        values = grid * c / 6
        edges = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2, [40.0]])
        density, share = stats.norm.pdf(edges), np.diff(stats.norm.cdf(edges))
        first = -np.diff(density)
        second = share - np.diff(edges * density)
        return float((second - 2 * values * first + values**2 * share).sum())

    best = optimize.minimize_scalar(error, bounds=(2, 4), method="bounded", options={"xatol": 1e-9})
    assert best.x == pytest.approx(training.QUEST_GAUSSIAN_RANGE, rel=1e-5)


def test_rounding_to_nearest_shrinks_by_the_published_factor():
    # Quartet's code multiplies nearest-rounded groups of 32 by 1.009276 to undo their shrinkage.
    x = np.random.default_rng(3).standard_normal((100_000, 32)).astype(np.float32)
    scale = 2.0 ** (np.floor(np.log2(np.abs(x).max(1, keepdims=True))) - 2)
    scale = (scale / training.BACKWARD_HEADROOM).astype(np.float32)
    rounded = round_to(x / scale, "fp4-e2m1", overflow="saturate") * scale
    factor = float((x * x).sum(dtype=np.float64) / (x * rounded).sum(dtype=np.float64))
    assert factor - 1 == pytest.approx(0.009276, rel=0.05)


def test_noise_ratio_falls_with_the_mean_gradient():
    rng = np.random.default_rng(2)
    recipe = recipes.find("nvfp4")
    ratios = []
    for mean in (1.0, 0.1, 0.0):
        batches = []
        for _ in range(16):
            x, w = (rng.standard_normal(s).astype(np.float32) for s in ((64, 32), (32, 32)))
            slope = (mean * x + rng.standard_normal((64, 32))).astype(np.float32)
            batches.append((recipe.forward(x, w)[1], slope))
        ratios.append(recipes.weight_noise_ratio(recipe, batches))
    assert ratios[0] > ratios[1] > ratios[2]
    # without a mean only the batches' own spread is left: about 1 / sqrt(16) of a single gradient
    assert ratios[2] < 0.5 * ratios[0]
    assert recipes.weight_noise_ratio(recipe.finishing(), batches) == np.inf


def test_a_transformer_learns_under_quartet():
    _, losses = train(None, steps=220, learning_rate=3e-3, recipe=recipes.Quartet())
    assert losses[-20:].mean() < 0.25 * np.log(VOCAB) < losses[0]


@pytest.mark.slow
def test_recipes_against_float32():
    options = {"steps": 300, "seeds": (0, 1)}
    exact, quartet, rounded = stability.bit_reduction((None, "quartet", "mxfp4"), **options)
    for record in (quartet, rounded):
        assert exact["loss"] < record["loss"] < 0.25
    (finished,) = stability.bit_reduction(("mxfp4",), finish=0.3, **options)
    assert finished["loss"] < 1.05 * rounded["loss"]
    assert quartet["noise_ratio"] > 0


@pytest.mark.slow
def test_a_torch_transformer_learns_under_quartet():
    torch = pytest.importorskip("torch")
    from tests.numerics.test_training import train as train_torch

    torch.set_num_threads(1)
    quartet = train_torch(
        torch, lambda i, o: recipes.recipe_linear(i, o, recipes.Quartet()), 500
    )  # fmt: skip
    assert quartet < 0.5 * np.log(16)


def test_command(capsys):
    from isoflop.cli import main

    arguments = ["formats", "train", "fp32", "e8m3", "quartet", "--steps", "20", "--seeds", "1"]
    main([*arguments, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [r["format"] for r in rows] == ["fp32", "e8m3", "quartet"]
    assert rows[2]["noise_ratio"] > 0
    assert rows[0]["noise_ratio"] is None
    main(arguments)
    assert "gradient/noise" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*arguments, "--finish", "2"])
    assert "0 to 1" in capsys.readouterr().err
