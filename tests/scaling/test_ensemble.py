"""Forecasts by several forms: inside the runs, beyond them, and on public runs."""

import json

import numpy as np
import pytest

from isoflop.cli import main
from isoflop.errors import FitError
from isoflop.scaling.columns import Runs, read_runs
from isoflop.scaling.ensemble import FORMS, compare_forms, forecast, hold_out
from isoflop.scaling.law import find_law
from tests.test_cli import fails

from ..shared_data import data
from .test_fit import LAW, TRUE, sweep


def test_runs_of_one_form_are_forecast_within_the_interval():
    runs = sweep(3)
    at = {"params": np.array([1e10, 3e10]), "tokens": np.array([2e11, 6e11])}
    found = forecast(runs, at)
    truth = LAW.predict(TRUE, at)
    assert np.all((found.low < truth) & (truth < found.high))
    np.testing.assert_allclose(found.value, truth, rtol=0.02)
    assert sum(m.weight for m in found.members) == pytest.approx(1.0)
    best = max(FORMS, key=lambda f: sum(m.weight for m in found.members if m.form == f))
    assert best == "chinchilla"


def test_intervals_grow_with_the_distance_from_the_runs():
    flop = np.array([1e21, 1e23, 1e25])
    at = {"params": np.sqrt(flop / 120), "tokens": np.sqrt(flop * 20 / 6)}
    found = forecast(sweep(4), at)
    width = np.log(found.high / found.low)
    assert width[0] < width[1] < width[2]
    wider = forecast(sweep(4), at, level=0.99)
    assert np.all(wider.high / wider.low > found.high / found.low)


def test_the_forecast_does_not_see_the_runs_it_predicts():
    runs = sweep(5)
    flop = runs.columns["compute_flop"]
    changed = dict(runs.columns)
    changed["loss"] = np.where(flop > flop.max() / 10, runs.columns["loss"] * 1.3,
                               runs.columns["loss"])  # fmt: skip
    other = Runs(columns=changed, lines=runs.lines)
    a, b = hold_out(runs), hold_out(other)
    assert a["mean_abs_pct"] < 2
    # The same predictions against losses 30% higher.
    assert b["bias_pct"] == pytest.approx(100 * ((1 + a["bias_pct"] / 100) / 1.3 - 1), abs=0.01)


def test_too_few_decades_say_what_is_missing():
    runs = sweep(6, budgets=2)
    near = runs.take(np.nonzero(runs.columns["compute_flop"] > 1e20)[0])
    with pytest.raises(FitError, match="add cheap runs"):
        forecast(near, {"params": np.array([1e10]), "tokens": np.array([2e11])})


@pytest.mark.parametrize("file", ["sldbench_farseer.csv.gz", "chinchilla_epoch_svg_extracted.csv"])
def test_public_runs_are_extrapolated_at_half_of_chinchillas_error(file):
    runs = read_runs(data(f"laws/{file}"), LAW)
    found = {r["law"]: r for r in compare_forms(runs)}
    ours, usual = found["combined"], found["chinchilla"]
    assert ours["mean_abs_pct"] <= usual["mean_abs_pct"] / 2
    assert ours["coverage_90"] >= 90


@pytest.mark.parametrize("name", ["chinchilla", "outer-power", "kaplan-joint"])
def test_each_form_finds_itself(name):
    law = find_law(name)
    theta = {
        "chinchilla": TRUE,
        "outer-power": law.vector({"E": 1.2, "A": 3e3, "alpha": 0.4, "B": 2e4, "beta": 0.43,
                                   "gamma": 0.5}) if name == "outer-power" else None,
        "kaplan-joint": law.vector({"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076,
                                    "alpha_D": 0.103}) if name == "kaplan-joint" else None,
    }[name]  # fmt: skip
    runs = sweep(0)
    x = {k: runs.columns[k] for k in ("params", "tokens")}
    from isoflop.scaling.fit import fit_law

    made = Runs(columns={**x, "loss": law.predict(theta, x)}, lines=runs.lines)
    np.testing.assert_allclose(fit_law(made, law).predict(x), made.columns["loss"], rtol=2e-4)


def test_the_command_compares_and_forecasts(capsys):
    main(["fit", "demo", "--bootstrap", "0", "--compare", "--predict", "params=7e10,tokens=2e12",
          "--json"])  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert {r["law"] for r in found["comparison"]} >= {*FORMS, "combined", "farseer"}
    point = found["forecast"]["points"][0]
    assert point["low"] < point["loss"] < point["high"]
    assert "params=7e10" in fails(capsys, "fit", "demo", "--predict", "7e10")
