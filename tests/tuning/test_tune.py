import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.cli import main
from isoflop.errors import InvalidInput
from isoflop.tuning.demo import LIMIT, SPACE, demo_best, demo_objective
from isoflop.tuning.search import tune
from isoflop.tuning.searcher import find_searcher, searcher_names
from isoflop.tuning.space import Setting, Space, read_space
from tests.test_cli import fails

pytest.importorskip("sklearn", reason="Bayesian search needs scikit-learn")


@given(st.floats(0, 1))
def test_scales_go_there_and_back(u):
    for setting in (
        Setting(name="a", scale="linear", low=-1, high=3), Setting(name="b", scale="log", low=1e-5,
                                                                   high=1e2),
        Setting(name="c", scale="logit", low=0.01, high=0.99),
    ):  # fmt: skip
        assert setting.to_unit(setting.from_unit(u)) == pytest.approx(u, abs=1e-9)
    whole = Setting(name="d", scale="integer", low=1, high=64)
    assert isinstance(whole.from_unit(u), int)
    assert 1 <= whole.from_unit(u) <= 64


def front_gap(history, low=5.0, high=200.0):
    """Mean excess of the front over the best loss the demo can have at each cost."""
    gaps = []
    for cost in np.geomspace(low, high, 12):
        known = [t.loss for t in history.front() if t.cost <= cost]
        gaps.append((min(known) if known else 8.0) - demo_best(cost))
    return float(np.mean(gaps))


def test_carbs_pushes_the_front_below_random_search():
    gaps = {m: [] for m in ("carbs", "random")}
    for m in gaps:
        for seed in range(2):
            history = tune(demo_objective(seed), SPACE, find_searcher(m), trials=36, seed=seed)
            gaps[m].append(front_gap(history))
    assert np.mean(gaps["carbs"]) < 0.6 * np.mean(gaps["random"])


def constrained(config):
    """Branin-like bowl whose free minimum is forbidden: the optimum lies on the border."""
    x, y = config["x"], config["y"]
    return {"loss": (x - 0.2) ** 2 + (y - 0.2) ** 2, "outside": 0.8 - x - y}


BOX = Space(settings=(Setting(name="x", scale="linear"), Setting(name="y", scale="linear")))


def test_config_finds_the_constrained_optimum():
    best = []
    for method in ("config", "random"):
        runs = [
            tune(constrained, BOX, find_searcher(method), trials=30, seed=s).best()
            for s in range(2)
        ]
        best.append(np.mean([r.loss for r in runs]))
        assert all(r.allowed for r in runs)
    optimum = 2 * 0.2**2  # x = y = 0.4
    assert best[0] - optimum < 0.004
    assert best[0] < best[1]


def test_config_nears_the_best_within_a_limit_and_learns_where_runs_fail():
    gaps, failed = {"config": [], "random": []}, []
    for method, found in gaps.items():
        for seed in range(2):
            history = tune(demo_objective(seed, limit=LIMIT), SPACE, find_searcher(method),
                           trials=40, seed=seed)  # fmt: skip
            best = history.best()
            assert best is not None
            assert best.cost <= LIMIT
            found.append(best.loss - demo_best(LIMIT))
            failed += [np.mean([t.failed for t in history.trials])] * (method == "config")
    assert np.mean(gaps["config"]) < 0.5 * np.mean(gaps["random"])
    assert max(failed) < 0.3


def test_functionally_equal_candidates_run_once():
    calls = []
    space = Space(settings=(
        Setting(name="kind", scale="choice", choices=("sgd", "adam")),
        Setting(name="beta2", scale="linear", low=0.9, high=0.999, active_if=("kind", "adam")),
    ))  # fmt: skip

    def objective(config):
        calls.append(config)
        return {"loss": 1.0 if config["kind"] == "sgd" else config["beta2"], "cost": 1.0}

    history = tune(objective, space, find_searcher("random"), trials=30)
    assert sum(c["kind"] == "sgd" for c in calls) == 1
    assert sum(t.repeated for t in history.trials) == 30 - len(calls)


def test_an_interrupted_search_goes_on(tmp_path):
    log = tmp_path / "runs.jsonl"
    first = tune(demo_objective(), SPACE, find_searcher("random"), trials=5, log=log)
    log.write_text(log.read_text() + '{"config": {"par')  # cut off mid-line
    calls = []

    def counted(config):
        calls.append(config)
        return {"loss": 1.0, "cost": 1.0}

    second = tune(counted, SPACE, find_searcher("random"), trials=8, log=log)
    assert len(calls) == 3
    assert [t.loss for t in second.trials[:5]] == [t.loss for t in first.trials]
    assert len(log.read_text().splitlines()) == 8


def test_failed_runs_are_kept_and_counted():
    history = tune(demo_objective(), SPACE, find_searcher("random"), trials=30)
    assert any(t.failed for t in history.trials)
    assert not any(t.failed for t in history.front())
    with pytest.raises(InvalidInput, match="first ten"):
        tune(lambda c: {"loss": math.nan}, SPACE, find_searcher("random"), trials=20)


def test_commands(tmp_path, capsys):
    main(["tune", "demo", "--trials", "12", "--method", "random", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["trials"] == 12
    assert found["front"]
    path = tmp_path / "space.toml"
    path.write_text('[lr]\nscale = "log"\nlow = 1e-4\nhigh = 1e-1\n')
    script = tmp_path / "run.py"
    script.write_text("import sys, json\nlr = float(sys.argv[1])\n"
                      "print(json.dumps({'loss': abs(lr - 0.01), 'cost': 1.0}))\n")  # fmt: skip
    main(["tune", str(path), "--command", f"python3 {script} {{lr}}", "--trials", "6",
          "--method", "random"])  # fmt: skip
    assert "6 runs" in capsys.readouterr().out
    assert "how to run" in fails(capsys, "tune", str(path))
    path.write_text('[lr]\nscale = "logg"\n')
    assert "logg" in fails(capsys, "tune", str(path), "--command", "true")
    path.write_text('[lr]\nscale = "log"\nlow = 0.0\nhigh = 1.0\n')
    assert "above 0" in fails(capsys, "tune", str(path), "--command", "true")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_space(tmp_path / "none.toml")


@pytest.mark.parametrize("name", searcher_names())
def test_searchers_are_documented(name):
    assert find_searcher(name).reference
