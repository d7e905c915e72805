"""Decisions beyond size and tokens, against closed forms and dense grids."""

import json

import numpy as np
import pytest
from scipy.optimize import brentq

from isoflop.cli import main
from isoflop.scaling.choice import best_size, choice_names, find_choice, law_of, predict
from isoflop.scaling.choices.vocabulary import best_by_compute, best_by_loss, budget_of
from tests.test_cli import fails


def run(name, budget=1e21, **given):
    choice = find_choice(name)
    return choice.run(budget, choice.complete(given))


@pytest.mark.parametrize("name", choice_names())
def test_every_choice_is_documented_and_answers(name, capsys):
    choice = find_choice(name)
    assert "References" in type(choice).__doc__
    main(["spend", "1e21", "--choose", name, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["rows"]
    assert found["conclusion"]


def test_best_size_finds_a_minimum():
    n, value = best_size(lambda x: (np.log10(x) - 9.3) ** 2)
    assert n == pytest.approx(10**9.3, rel=1e-6)
    assert value == pytest.approx(0.0, abs=1e-12)


def test_precision_optimum_is_the_closed_form():
    # alpha = beta: (1 - e^(-P/g))^3 / P with the three scales of bits; maximal where its log's
    # derivative vanishes.
    _, law, theta = law_of("kumar-2024")
    scales = [law.constants(theta)[k] for k in ("g_w", "g_a", "g_kv")]

    def slope(p):
        return sum(np.exp(-p / g) / g / (1 - np.exp(-p / g)) for g in scales) - 1.0 / p

    best = brentq(slope, 1.5, 16)
    rows = run("precision").rows()
    bits = min(rows, key=lambda r: r["loss"])["bits"]
    assert abs(bits - best) <= 1.0
    # Cost that does not fall with bits: the widest format wins.
    flat = run("precision", cost_exponent=1e-9).rows()
    assert min(flat, key=lambda r: r["loss"])["bits"] == 16


def test_sparser_is_better_at_equal_training_work():
    rows = run("experts").rows()
    losses = [r["loss"] for r in rows if r["choice"].startswith("sparsity")]
    assert losses == sorted(losses, reverse=True)
    fine = [r for r in rows if r["choice"].startswith("granularity")]
    best = min(fine, key=lambda r: r["loss"])["choice"]
    assert best not in ("granularity 1", "granularity 32")  # routing stops it


def test_distillation_pays_below_a_budget_and_with_a_shared_teacher():
    """The paper: distil below a compute that grows with the student, or where logits are shared."""

    def best(budget, **given):
        rows = run("teacher", budget, student=1e9, **given).rows()
        return min(rows, key=lambda r: r["loss"])

    assert best(1e20)["teacher_params"] is not None
    assert best(1e22)["teacher_params"] is None
    assert best(1e21, logits=1e-9)["loss"] < best(1e21)["loss"]


def test_repetition_costs_only_past_the_first_epoch():
    rows = run("epochs", unique_tokens=1e10).rows()
    for r in rows:
        gap = r["loss"] - r["loss_if_fresh"]
        assert gap == pytest.approx(0.0, abs=1e-9) if r["epochs"] <= 1 else gap > 0
    more = run("epochs", unique_tokens=1e12).rows()
    best = [min(x, key=lambda r: r["loss"])["epochs"] for x in (rows, more)]
    assert best[0] > best[1]


def test_step_law_check():
    _, law, theta = law_of("steplaw-2025-lr")
    assert predict(law, theta, params=1e9, tokens=2e10) == pytest.approx(9.96e-4, rel=0.01)
    rows = run("hyperparameters", 6 * 1e9 * 2e10, params=1e9).rows()
    assert rows[2]["lr"] == pytest.approx(9.96e-4, rel=0.01)


def test_test_time_slope_is_the_law():
    rows = run("test-time").rows()
    assert np.log10(rows[4]["test_flop"] / rows[2]["test_flop"]) == pytest.approx(-1.2)


def test_best_mixture_is_no_worse_than_random_ones():
    from isoflop.scaling.choices.mix import DOMAINS
    from isoflop.scaling.laws.mixture import shares

    laws = [law_of(f"ye-2024-domain-{i}-refit") for i in range(1, DOMAINS + 1)]
    limits = np.array([laws[0][0].ranges()[name] for name in shares(DOMAINS)])
    rows = run("mix", weight_2=3.0, weight_4=1.0).rows()
    assert sum(r["share"] for r in rows) == pytest.approx(1.0)
    best = sum(r["weight"] * r["loss"] for r in rows)
    rng = np.random.default_rng(0)
    tried = 0
    for r in rng.dirichlet(np.ones(DOMAINS), 4000):
        if np.all(r <= limits[:, 1]):
            tried += 1
            x = dict(zip(shares(DOMAINS), r))
            loss = [predict(law, theta, **x) for _, law, theta in laws]
            assert 0.75 * loss[1] + 0.25 * loss[3] >= best - 1e-4
    assert tried > 20


def test_larger_budgets_keep_more_of_the_pool():
    """Goyal et al.: curation cannot be agnostic of compute."""

    def kept(budget):
        return min(run("filtering", budget).rows(), key=lambda r: r["error"])["kept"]

    shares = [kept(b) for b in (1e19, 1e20, 1e21, 1e22)]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


def test_vocabulary_meets_the_papers_points():
    """216K tokens at 70B parameters of width 8192; more where a model is trained for longer."""
    at = best_by_loss(70e9, budget_of(70e9), 8192.0) / 8192
    assert at == pytest.approx(216e3, rel=0.02)
    assert best_by_compute(budget_of(70e9)) / 8192 == pytest.approx(216e3, rel=0.03)
    rows = [run("vocabulary", flop, params=2.87e9, aspect=137.0).rows()[2] for flop in
            (1e21, 4e21)]  # fmt: skip
    assert rows[0]["vocab"] < rows[1]["vocab"]
    assert rows[0]["by_slope"] == rows[1]["by_slope"]
    # The paper's 3B model: 35K to 41K for 1.2e21 FLOP, 43K when trained on twice the compute.
    assert rows[0]["width"] == pytest.approx(3200, rel=0.01)
    assert best_by_loss(2.87e9, 2.3e21, 3200.0) / 3200 == pytest.approx(43_000, rel=0.03)


def test_updates_trade_samples_for_compute():
    rows = run("updates", 1e20).rows()
    samples, flop = ([r[k] for r in rows] for k in ("samples", "flop"))
    assert samples == sorted(samples, reverse=True)
    assert flop == sorted(flop)
    assert "16 updates per sample" in run("updates", 1e20).conclusion
    # The frontier's cheapest point: d/ds of D (update s + sample) is zero.
    _, law, theta = law_of("rybkin-2025-gym")
    text = run("updates", 1e20, sample_flop=4e9).conclusion
    s = np.geomspace(0.25, 16, 20001)
    total = law.predict(theta, {"utd": s}) * (1e9 * s + 4e9)
    assert float(text.split()[0]) == pytest.approx(s[np.argmin(total)], rel=0.03)
    assert "does not reach" in run("updates", 1e10).conclusion


def test_unknown_choice_is_explained(capsys):
    assert "precision" in fails(capsys, "spend", "1e21", "--choose", "precison")
