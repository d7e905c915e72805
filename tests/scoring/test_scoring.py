import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.cli import main
from isoflop.errors import InvalidInput
from isoflop.scoring.algoperf import performance_profiles, read_times
from isoflop.scoring.demo import FILES, demo_file
from isoflop.scoring.equal_hours import Curve, compare
from isoflop.scoring.sort_search import best_threshold, predict, rank, sample_places
from tests.test_cli import fails


def test_profile_area_by_hand():
    times = {"a": {"x": 10, "y": 40}, "b": {"x": 20, "y": 20}, "c": {"x": np.inf, "y": 200}}
    found = performance_profiles(times)
    # Ratios a: 1, 2; b: 2, 1; c: never, 10 (past the longest).
    np.testing.assert_allclose(found.scores, [(3 + 2) / 6, (2 + 3) / 6, 0.0])
    grid = np.linspace(1, 4, 200_001)
    area = np.trapezoid(found.profile(0, grid), grid) / 3
    assert found.scores[0] == pytest.approx(area, abs=1e-4)


def test_most_studies_must_reach_the_target():
    rows = [{"submission": "a", "workload": "x", "seconds": s} for s in ("5", "", "9")]
    assert read_times(rows)["a"]["x"] == 9
    rows[0]["seconds"] = ""
    assert read_times(rows)["a"]["x"] == np.inf


def test_wrong_times_are_explained():
    with pytest.raises(InvalidInput, match="differ in the workloads"):
        performance_profiles({"a": {"x": 1.0}, "b": {"y": 1.0}})
    with pytest.raises(InvalidInput, match="No submission reached"):
        performance_profiles({"a": {"x": np.inf}})
    with pytest.raises(InvalidInput, match="positive"):
        performance_profiles({"a": {"x": -1.0}})


def power(name, scale, exponent, speed):
    tokens = np.geomspace(1e7, 1e12, 60)
    return Curve(name=name, tokens=tokens, loss=scale * tokens**-exponent, tokens_per_s=speed)


def test_equal_hours_on_power_laws():
    fast, good = power("fast", 100, 0.1, 1e6), power("good", 90, 0.1, 2e5)
    records = compare([fast, good], [10.0])
    by = {r["model"]: r for r in records}
    # Five times the tokens: 5^-0.1 against 0.9.
    assert by["fast"]["best"]
    assert by["fast"]["loss"] / by["good"]["loss"] == pytest.approx(5**-0.1 / 0.9, rel=1e-6)
    assert by["good"]["speedup"] == pytest.approx(
        (0.9 / 5**-0.1) ** -10.0 and 5 * 0.9**10, rel=1e-3
    )
    with pytest.raises(InvalidInput, match="No curve covers"):
        compare([fast], [1e9])


@settings(max_examples=60)
@given(st.lists(st.integers(0, 1), min_size=1, max_size=30))
def test_threshold_is_the_exact_optimum(bits):
    row = np.array(bits)
    k, wrong = best_threshold(row)
    errors = [int((1 - row[:j]).sum() + row[j:].sum()) for j in range(len(row) + 1)]
    assert wrong == min(errors) == errors[k]


def answers(models=40, samples=2000, seed=0):
    """Items of a one-parameter logistic response model."""
    rng = np.random.default_rng(seed)
    skill, hard = rng.normal(0, 1.5, models), rng.normal(0, 2.0, samples)
    return (rng.random((models, samples)) < 1 / (1 + np.exp(hard - skill[:, None]))).astype(int)


def test_few_samples_predict_the_rest():
    table = answers(models=100)
    ranked = rank(table[:40])
    errors, random, wrong = [], [], []
    rng = np.random.default_rng(5)
    for new in table[40:]:
        places = sample_places(2000, 100)
        seen = new[ranked.order[places]]
        believed, accuracy = predict(ranked, places, seen)
        errors.append(abs(accuracy - new.mean()))
        random += [abs(rng.choice(new, 100, replace=False).mean() - new.mean()) for _ in range(40)]
        _, least = best_threshold(new[ranked.order])
        wrong.append(np.mean(believed != new) - least / 2000)
    # Single answers: nearly as good as the best threshold that saw everything.
    assert np.mean(wrong) < 0.06
    assert np.mean(errors) < np.mean(random)
    # A perfectly ordered benchmark is predicted exactly up to the spacing of the samples.
    steps = (np.arange(500)[None, :] < np.array([50, 200, 310, 450])[:, None]).astype(int)
    exact = rank(steps[:3])
    assert exact.error == 0
    _, accuracy = predict(
        exact, sample_places(500, 100), steps[3][exact.order][sample_places(500, 100)]
    )
    assert accuracy == pytest.approx(0.9, abs=0.12)


def test_refinement_never_hurts():
    table = answers(seed=3)
    once, more = rank(table, rounds=1), rank(table)
    assert more.error <= once.error


def test_commands(tmp_path, capsys):
    path = tmp_path / "times.csv"
    path.write_text("submission,workload,seconds\na,x,10\nb,x,20\na,y,\nb,y,5\n")
    main(["score", "algoperf", str(path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {r["submission"]: round(r["score"], 3) for r in found["scores"]} == {
        "a": 0.5, "b": round((2 / 3 + 1) / 2, 3)
    }  # fmt: skip
    curves = tmp_path / "curves.csv"
    lines = ["model,tokens,loss,tokens_per_s"]
    lines += [f"a,{t},{3 + 1e3 / t**0.4},1e5" for t in (1e8, 1e9, 1e10, 1e11)]
    curves.write_text("\n".join(lines) + "\n")
    main(["score", "languini", str(curves)])
    assert "equal accelerator hours" in capsys.readouterr().out
    table = answers(6, 50)
    bench = tmp_path / "bench.csv"
    bench.write_text("model," + ",".join(f"s{i}" for i in range(50)) + "\n" + "\n".join(
        f"m{i}," + ",".join(map(str, row)) for i, row in enumerate(table)) + "\n")  # fmt: skip
    main(["score", "sort-search", str(bench), "--samples", "20"])
    assert "accuracy" in capsys.readouterr().out
    assert "lacks the columns" in fails(capsys, "score", "algoperf", str(curves))
    assert "Between 1 and 50" in fails(
        capsys, "score", "sort-search", str(bench), "--samples", "60"
    )


@pytest.mark.parametrize("name", FILES)
def test_demo_files_are_what_their_formulas_give(name):
    assert demo_file(name).read_text() == FILES[name]()


@pytest.mark.parametrize(
    ("score", "says"),
    [("algoperf", "8 workloads"), ("languini", "large and slow"), ("sort-search", "of 500")],
)
def test_every_score_has_an_example(capsys, score, says):
    main(["score", score, "demo"])
    assert says in capsys.readouterr().out
