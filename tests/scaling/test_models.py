"""Solvable models: their recursion against simulation, their exponents against the papers'."""

import json

import numpy as np
import pytest

from isoflop.cli import main
from isoflop.errors import InvalidInput
from isoflop.scaling.models.random_features import (
    Features,
    before_noise,
    dynamical_exponents,
    flow_losses,
    phase,
    sgd_frontier,
    sgd_losses,
)
from tests.test_cli import fails


def test_recursion_is_the_expectation_of_real_sgd():
    rng = np.random.default_rng(0)
    f = Features(eigenvalues=np.array([1.0, 0.3, 0.1, 0.02]), residual=np.array([1, 2.0, 1, 4]),
                 floor=0.01)  # fmt: skip
    steps = np.array([1, 5, 20, 60])
    lam, optimum = f.eigenvalues, np.sqrt(f.residual)
    g = 0.5 / lam.sum()
    runs = 20_000
    w = np.zeros((runs, 4))
    seen = []
    for t in range(1, 61):
        x = rng.standard_normal((runs, 4)) * np.sqrt(lam)
        y = x @ optimum + np.sqrt(2 * f.floor) * rng.standard_normal(runs)
        w -= g * ((x * w).sum(axis=1) - y)[:, None] * x
        if t in steps:
            seen.append(f.floor + 0.5 * np.mean(((w - optimum) ** 2) @ lam))
    np.testing.assert_allclose(sgd_losses(f, steps), seen, rtol=0.03)


def test_small_steps_are_gradient_flow():
    f = Features.draw(1.0, 0.6, 20, 80)
    rate = 1e-4 / f.eigenvalues.sum()
    steps = np.array([1000, 4000])
    np.testing.assert_allclose(
        sgd_losses(f, steps, batch=10**9, rate=rate), flow_losses(f, steps * rate), rtol=1e-3
    )


def test_loss_at_zero_weights_is_the_targets_power():
    f = Features.draw(0.9, 0.7, 30, 120, seed=2)
    j = np.arange(1, 121.0)
    whole = 0.5 * np.sum(j ** (-2 * 0.9 - 2 * 0.7))
    assert flow_losses(f, np.zeros(1))[0] == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.4), (1.0, 0.8), (1.0, 1.5)])
def test_solved_exponents_are_the_published_ones(alpha, beta):
    name, size, loss = phase(alpha, beta)
    assert name in ("Ia", "II", "III")
    found = sgd_frontier(alpha, beta)
    assert found.size_exponent == pytest.approx(size, abs=0.06)
    assert found.loss_exponent == pytest.approx(loss, abs=0.11)


def test_phases_meet_at_their_borders():
    for a in (0.7, 1.0, 1.6):
        below, above = phase(a, a - 1e-9), phase(a, a + 1e-9)
        assert (below[0], above[0]) == ("II", "III")
        assert below[1] == pytest.approx(above[1], abs=1e-6)
        assert below[2] == pytest.approx(above[2], abs=1e-6)
        one, two = phase(a, 0.5), phase(a, 0.5 + 1e-9)
        assert (one[0], two[0]) == ("Ia", "II")
        assert one[1] == pytest.approx(two[1], abs=1e-6)
    assert phase(0.2, 0.2)[1] is None


def test_dynamical_model_in_time_and_width():
    """Spectrum k^-1.25, task k^-1.5: t^-0.4, N^-0.5, C^-0.222, N ~ C^0.444."""
    found = dynamical_exponents(1.5, 1.25)
    assert found == pytest.approx({"time": 0.4, "size": 0.5, "compute": 2 / 9, "width": 4 / 9})
    alpha, beta = 1.25 / 2, (1.5 - 1.25) / 2
    wide = Features.draw(alpha, beta, 1500, 1600)
    times = np.geomspace(3, 60, 12)
    losses = flow_losses(wide, times)
    assert -np.polyfit(np.log(times), np.log(losses), 1)[0] == pytest.approx(0.4, abs=0.06)
    widths = np.array([20, 40, 80, 160])
    # Power beyond the 6,000 coordinates that are drawn is in every floor.
    beyond = 0.5 * np.sum(np.arange(6001, 3_000_000.0) ** -1.5) + 3_000_000**-0.5
    floors = [
        np.mean([Features.draw(alpha, beta, int(d), 6000, s).floor for s in range(2)]) + beyond
        for d in widths
    ]
    assert -np.polyfit(np.log(widths), np.log(floors), 1)[0] == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(("task", "spectrum"), [(1.5, 1.25), (1.8, 1.5)])
def test_dynamics_command_solves_the_model(capsys, task, spectrum):
    main(["laws", "dynamics", "--task", str(task), "--spectrum", str(spectrum), "--json"])
    found = json.loads(capsys.readouterr().out)
    for name, value in found["published"].items():
        assert found["solved"][name] == pytest.approx(value, abs=0.11)
    assert "above 1" in fails(capsys, "laws", "dynamics", "--task", "0.5")


@pytest.mark.parametrize(("alpha", "beta"), [(0.4, 0.8), (0.35, 0.7), (0.27, 0.7)])
def test_phase_four_before_the_noise(alpha, beta):
    """At widths that can be drawn the population term decides, as derived; noise comes later."""
    assert phase(alpha, beta)[0] in ("IVa", "IVb")
    size, loss = before_noise(alpha, beta)
    found = sgd_frontier(alpha, beta)
    assert found.size_exponent == pytest.approx(size, abs=0.06)
    assert found.loss_exponent == pytest.approx(loss, abs=0.08)


def test_command(capsys):
    main(["laws", "phases", "--alpha", "1.0", "--beta", "0.8", "--no-solve", "--json"])
    assert json.loads(capsys.readouterr().out)["phase"] == "II"
    main(["laws", "phases", "--alpha", "0.2", "--beta", "0.2"])
    assert "no compute-optimal" in capsys.readouterr().out
    assert "between 0 and 10" in fails(capsys, "laws", "phases", "--alpha", "-1")
    with pytest.raises(InvalidInput, match="more coordinates"):
        Features.draw(1.0, 1.0, 10, 10)
