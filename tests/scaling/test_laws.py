"""Every law form and every published fit."""

import numpy as np
import pytest

from isoflop.errors import InvalidInput
from isoflop.scaling.columns import Runs
from isoflop.scaling.fit import fit_law
from isoflop.scaling.law import find_law, law_names
from isoflop.scaling.laws.progress import Progress
from isoflop.scaling.published import load_published, published_names

INPUTS = {
    "params": 3e8, "tokens": 2e10, "compute_flop": 3e19, "loss": 2.7, "unique_tokens": 6e9,
    "tokens_per_param": 60.0, "experts": 16.0, "granularity": 4.0, "sparsity": 0.8,
    "bits_weight": 6.0, "bits_activation": 8.0, "bits_kv": 5.0, "eff_params": 0.65,
    "eff_tokens": 0.95, "loss_teacher": 2.2, "loss_alone": 2.5, "pool": 120.0, "epochs": 3.5,
    "vocab_params": 2e7, "characters": 8e10, "streams": 4.0, "years": 7.0, "train_flop": 1e13,
    "elo": -500.0, "vocab": 3e4, "utd": 3.0,
    "samples": 30.0, "fine_tuning_tokens": 1e8, "days": 300.0,
    "share_1": 0.3, "share_2": 0.15, "share_3": 0.08, "share_4": 0.2, "share_5": 0.3,
}  # fmt: skip


PLAUSIBLE = {
    "broken-power": {"a": 1.7, "b": 30.0, "c_0": 0.05, "c_1": 0.05, "d": 1e20, "f": 0.3},
    "mixed-quality": {"a": 1, "b_1": -0.2, "tau_1": 3, "b_2": -0.1, "tau_2": 8, "d": 0.1},
    "mixture": {"c": 2.0, "k": 0.8, "t_1": -1.5, "t_2": 0.3, "t_3": -0.5},
    "repeated-quality": {"a": 1, "b": -0.2, "tau": 3, "d": 0.1},
    "rl-sigmoid": {"R_0": 0.2, "A": 0.61, "C_mid": 3e19, "B": 0.9},
    "smooth-power": {"e_inf": 0.1, "e_0": 0.9, "beta": 0.1, "c": -0.3},
    "vision-shape": {"a": 5.0, "b": 0.1, "c": 0.05, "d": 1e15},
}
"""Constants of forms that nobody has published a fit of."""

RANGES = {
    "params": (1e7, 1e10), "tokens": (1e9, 1e12), "compute_flop": (1e17, 1e22), "loss": (2, 3.5),
    "unique_tokens": (1e9, 1e11), "tokens_per_param": (5, 640), "experts": (1, 512),
    "granularity": (1, 32), "sparsity": (0.0, 0.97), "bits_weight": (3, 16),
    "bits_activation": (3, 16), "bits_kv": (3, 16), "eff_params": (0.2, 1), "eff_tokens": (0.2, 1),
    "loss_teacher": (1.9, 2.8), "loss_alone": (2.1, 3), "pool": (10, 1000), "epochs": (1, 10),
    "vocab_params": (1e6, 1e9), "vocab": (4e3, 1e5), "characters": (1e9, 1e12), "streams": (1, 8),
    "years": (0, 12), "train_flop": (1e11, 1e16), "elo": (-1500, 0), "utd": (0.25, 16),
    "samples": (1, 1000), "fine_tuning_tokens": (1e6, 1e10), "days": (0, 600),
}  # fmt: skip


def constants(name: str) -> np.ndarray:
    """Of the first published fit of a form, or plausible ones."""
    for entry in map(load_published, published_names()):
        if entry.law == name:
            return entry.theta()
    return find_law(name).vector(PLAUSIBLE[name])


def made_runs(law, theta, count: int = 60, noise: float = 0.002) -> Runs:
    """Runs over a wide range of every input, zeros among them where they may be."""
    rng = np.random.default_rng(1)
    x = {}
    for k in law.inputs:
        low, high = RANGES.get(k, (0, 1))
        even = low <= 0 or high / low < 20
        x[k] = rng.uniform(low, high, count) if even else np.exp(
            rng.uniform(np.log(low), np.log(high), count))  # fmt: skip
        x[k][0] = low
    shares = [k for k in law.inputs if k.startswith("share")]
    x |= dict(zip(shares, rng.dirichlet(np.ones(max(len(shares), 1)), count).T))
    y = law.predict(theta, x)
    scatter = noise * rng.standard_normal(count)
    y = y * np.exp(scatter) if law.log_residual else y + np.ptp(y) * scatter
    return Runs(columns={**x, law.output: y}, lines=np.arange(2, count + 2))


def at(law, count: int = 6) -> dict:
    """Inputs around a plausible point, different at every run."""
    rng = np.random.default_rng(3)
    wiggle = {k: np.exp(rng.uniform(-0.2, 0.2, count)) for k in law.inputs}
    x = {k: INPUTS[k] * wiggle[k] for k in law.inputs}
    if "sparsity" in x:
        x["sparsity"] = np.clip(x["sparsity"], 0.1, 0.95)
    return x


def thetas() -> list:
    return [pytest.param(find_law(load_published(n).law), load_published(n).theta(), id=n)
            for n in published_names()]  # fmt: skip


@pytest.mark.parametrize("name", law_names())
def test_form_is_documented_and_bounded(name):
    law = find_law(name)
    assert law.name == name
    assert law.reference
    assert "References" in type(law).__doc__
    assert len({p.name for p in law.parameters}) == len(law.parameters)
    assert all(p.low < p.high and (p.low > 0 or not p.log) for p in law.parameters)


def every_form() -> list:
    """All published constants, and the forms without any."""
    return thetas() + [pytest.param(find_law(n), find_law(n).vector(c), id=n)
                       for n, c in PLAUSIBLE.items()]  # fmt: skip


@pytest.mark.parametrize(("law", "theta"), every_form())
def test_gradient_is_the_derivative(law, theta):
    x = at(law)
    gradient = law.gradient(theta, x)
    assert gradient.shape == (6, len(theta))
    for i in range(len(theta)):
        h = 1e-6 * max(abs(theta[i]), 1e-3)
        up, down = theta.copy(), theta.copy()
        up[i], down[i] = theta[i] + h, theta[i] - h
        numeric = (law.predict(up, x) - law.predict(down, x)) / (2 * h)
        scale = np.abs(law.predict(theta, x)).max() / max(abs(theta[i]), 1e-3)
        np.testing.assert_allclose(gradient[:, i], numeric, rtol=2e-5, atol=1e-6 * scale)


@pytest.mark.parametrize(("law", "theta"), thetas())
def test_prediction_broadcasts_over_parameters(law, theta):
    x = at(law)
    many = law.predict(np.stack([theta, theta]), x)
    np.testing.assert_array_equal(many[0], law.predict(theta, x))
    assert many.shape == (2, 6)
    assert np.isfinite(many).all()


@pytest.mark.parametrize("name", law_names())
def test_every_form_is_fitted_to_its_own_runs(name):
    """Not the constants, which runs may leave open, but what they predict, within the noise."""
    law, theta = find_law(name), constants(name)
    runs = made_runs(law, theta)
    fit = fit_law(runs, law)
    truth = law.predict(theta, runs.data(law))
    apart = fit.predict(runs.data(law)) - truth
    apart = apart / (truth if law.log_residual else np.ptp(truth))
    assert np.abs(apart).mean() < 0.001
    assert np.abs(apart).max() < 0.006


WITHOUT_BUDGET = {"distillation"}
"""The teacher decides there: choice `teacher`."""
GIVEN = {"bits_weight": 8.0, "bits_activation": 8.0, "bits_kv": 16.0, "sparsity": 0.75,
         "granularity": 8.0, "eff_params": 0.65, "eff_tokens": 0.9}  # fmt: skip


@pytest.mark.parametrize(("law", "theta"), thetas())
def test_optimum_is_where_the_loss_is_lowest(law, theta):
    given = {k: v for k, v in GIVEN.items() if k in law.inputs}
    try:
        best = law.optimum(theta, 3e21, **given)
    except InvalidInput:
        assert not {"params", "tokens", "loss"} <= {*law.inputs, law.output} or (
            law.name in WITHOUT_BUDGET)  # fmt: skip
        pytest.skip("this law says nothing about a budget")
    n, d = best.inputs["params"], best.inputs["tokens"]
    share = 0.25 if law.name == "expert-sparsity" else 1.0
    assert 6 * share * n * d == pytest.approx(3e21, rel=1e-6)
    if law.output != "loss":
        return
    for factor in (0.8, 0.97, 1.03, 1.25):
        x = {"params": np.array([n * factor]), "tokens": np.array([d / factor]),
             "compute_flop": np.array([3e21]), "unique_tokens": np.array([1e30]),
             "tokens_per_param": np.array([d / n / factor**2]),
             **{k: np.array([v]) for k, v in given.items()}}  # fmt: skip
        other = law.predict(theta, {k: x[k] for k in law.inputs})[0]
        assert other >= best.prediction * (1 - 1e-7)


@pytest.mark.parametrize("name", published_names())
def test_published_fit_gives_what_its_source_says(name):
    entry = load_published(name)
    assert entry.sources
    assert all(s.date for s in entry.sources.values())
    for check in entry.checks:
        assert entry.evaluate(check) == pytest.approx(check.value, rel=check.tolerance)


def test_repeated_tokens_lose_their_worth():
    """Muennighoff et al.: effective tokens per unique token at 2 to 44 epochs."""
    entry = load_published("muennighoff-2023")
    law, theta = entry.form(), entry.theta()
    unique, r = 1e9, entry.constants["R_D"]
    for epochs, worth in ((2, 1.968), (4, 3.726), (8, 6.624), (16, 10.582), (44, 15.447)):
        # The loss at these epochs equals that of `worth` fresh epochs.
        tiny = 1e5  # so small that parameters are not in excess
        x = {"params": np.array([tiny, tiny]), "tokens": np.array([epochs, worth]) * unique,
             "unique_tokens": np.array([1.0, worth]) * unique}  # fmt: skip
        a, b = law.predict(theta, x)
        assert a == pytest.approx(b, rel=2e-4)
    assert 1 + r == pytest.approx(16.39, abs=0.01)


def test_filtered_data_wear_out():
    law = find_law("repeated-quality")
    theta = law.vector({"a": 1.0, "b": -0.2, "tau": 3.0, "d": 0.0})
    y = law.predict(theta, {"pool": np.array([100.0, 100.0]), "epochs": np.array([1.0, 2.0])})
    np.testing.assert_allclose(y, [0.3981, 0.3566], atol=5e-4)


def test_a_mixture_of_one_pool_with_itself_lasts_twice_as_long():
    one, two = find_law("repeated-quality"), find_law("mixed-quality")
    x = {"pool": np.array([100.0, 200.0]), "epochs": np.array([3.0, 2.5])}
    mixed = two.vector({"a": 1, "b_1": -0.2, "tau_1": 3, "b_2": -0.2, "tau_2": 3, "d": 0.1})
    alone = one.vector({"a": 1, "b": -0.2, "tau": 6, "d": 0.1})
    np.testing.assert_allclose(two.predict(mixed, x), one.predict(alone, x), rtol=1e-12)


def test_progress_doubling_time():
    months = Progress.doubling_years(load_published("ho-2024").constants) * 12
    assert months == pytest.approx(8.68, abs=0.01)


def test_unknown_and_missing_constants_are_named():
    with pytest.raises(InvalidInput, match="missing: beta"):
        find_law("chinchilla").vector({"E": 1, "A": 1, "B": 1, "alpha": 1})


def test_a_law_says_which_inputs_a_budget_leaves_open():
    law = find_law("fine-grained-experts")
    with pytest.raises(InvalidInput, match="--given granularity=VALUE"):
        law.optimum(constants("fine-grained-experts"), 1e21)
