"""Fitting, intervals and decisions."""

import time

import numpy as np
import pytest
from scipy.optimize import minimize

from isoflop.errors import FitError, InvalidInput, UnknownName
from isoflop.scaling.approaches import envelope, parabolas
from isoflop.scaling.columns import Runs, read_runs
from isoflop.scaling.compare import extrapolate
from isoflop.scaling.decide import (
    Believed,
    cheapest_for_quality,
    lifetime_optimum,
    load_law,
    parse_budget,
    spend,
)  # fmt: skip
from isoflop.scaling.demo import demo_file, demo_runs
from isoflop.scaling.design import Design, next_runs, runs_to_halve, simulated_left
from isoflop.scaling.fit import expanded_tail, fit_law
from isoflop.scaling.law import find_law
from isoflop.scaling.published import load_published
from isoflop.scaling.reproduce import epoch_resamples, reproduce
from isoflop.scaling.reproduce_forms import SCORES, decade_ahead
from isoflop.scaling.reproduced import column, read_table
from isoflop.scaling.sensitivity import EMBEDDING, sensitivity, without_embeddings
from isoflop.scaling.solve import TwoPowers, chinchilla_starts, generic, huber

from ..shared_data import data

LAW = find_law("chinchilla")
TRUE = LAW.vector({"E": 1.8, "A": 500.0, "alpha": 0.35, "B": 2000.0, "beta": 0.37})


def sweep(seed: int, noise: float = 0.005, budgets: int = 6, sizes: int = 8) -> Runs:
    rng = np.random.default_rng(seed)
    flop = np.repeat(np.geomspace(1e18, 1e21, budgets), sizes)
    ratio = np.tile(np.geomspace(2, 200, sizes), budgets)
    n = np.sqrt(flop / (6 * ratio))
    x = {"params": n, "tokens": flop / (6 * n)}
    y = LAW.predict(TRUE, x) * np.exp(noise * rng.standard_normal(len(n)))
    return Runs(columns={**x, "compute_flop": flop, "loss": y}, lines=np.arange(2, len(n) + 2))


def epoch() -> Runs:
    runs = read_runs(data("laws/chinchilla_epoch_svg_extracted.csv"), LAW)
    return runs.take(np.sort(np.argsort(runs.columns["loss"])[:-5]))


def test_noise_free_runs_give_the_law_back():
    fit = fit_law(sweep(0, noise=0.0), LAW)
    np.testing.assert_allclose(fit.theta, TRUE, rtol=1e-5)


def test_newton_derivatives_are_right():
    runs = sweep(1)
    s = TwoPowers(np.log(runs.columns["params"]), np.log(runs.columns["tokens"]),
                  np.log(runs.columns["loss"]), 0.01)  # fmt: skip
    z = np.array([[0.5, 6.0, 0.34, 7.5, 0.36]])
    w = np.random.default_rng(0).integers(0, 3, (1, len(runs))).astype(float)
    value, gradient, hessian = s.derivatives(z, w)
    assert value[0] == pytest.approx(s.objective(z, w)[0])
    for i in range(5):
        h = np.zeros(5)
        h[i] = 1e-6
        up, down = s.derivatives(z + h, w), s.derivatives(z - h, w)
        assert gradient[0, i] == pytest.approx((up[0] - down[0])[0] / 2e-6, rel=1e-4, abs=1e-8)
        np.testing.assert_allclose(hessian[0, i], (up[1] - down[1])[0] / 2e-6, rtol=1e-3, atol=1e-5)


def test_epoch_refit_reaches_the_minimum_of_scipy():
    """4,500 starts, and no worse than a long quasi-Newton run from the published constants."""
    runs = epoch()
    fit = fit_law(runs, LAW)
    assert fit.objective == pytest.approx(1.018274e-3, rel=1e-5)
    n, d = np.log(runs.columns["params"]), np.log(runs.columns["tokens"])
    y = np.log(runs.columns["loss"])

    def objective(z):
        f = np.log(np.exp(z[0]) + np.exp(z[1] - z[2] * n) + np.exp(z[3] - z[4] * d))
        return huber(f - y, 1e-3).sum()

    start = [np.log(1.8172), np.log(482.01), 0.3478, np.log(2085.43), 0.3658]
    peer = minimize(objective, start, method="Nelder-Mead",
                    options={"maxiter": 20_000, "fatol": 1e-14, "xatol": 1e-10})  # fmt: skip
    assert fit.objective <= peer.fun * (1 + 1e-9)
    assert len(chinchilla_starts()) == 4500


def test_epoch_standard_errors_are_the_published_ones():
    """On the very resamples of the published notebook; others scatter by a tenth for B."""
    runs = epoch()
    errors = fit_law(runs, LAW, counts=epoch_resamples(len(runs))).standard_errors
    published = load_published("besiroglu-2024").standard_errors
    assert errors == pytest.approx(published, rel=0.002)
    drawn = fit_law(runs, LAW, bootstrap=2000).standard_errors
    for name in ("E", "A", "alpha", "beta"):
        assert drawn[name] == pytest.approx(published[name], rel=0.08)


def test_generic_solver_agrees_with_newton():
    runs = sweep(2)
    fast = fit_law(runs, LAW)
    x = runs.data(LAW)
    theta, value, _ = generic(LAW, x, runs.columns["loss"], fast.theta[None, :] * 1.02,
                              delta=1e-3, log_residual=True)  # fmt: skip
    assert value[0] == pytest.approx(fast.objective, rel=1e-4)
    np.testing.assert_allclose(theta[0], fast.theta, rtol=0.02)


def coverage(sweeps: int, **options) -> float:
    """Share of sweeps whose 95% interval of N* holds the true one."""
    truth = LAW.optimum(TRUE, 1e22).inputs["params"]
    inside = 0
    for seed in range(sweeps):
        fit = fit_law(sweep(seed, **options), LAW, bootstrap=300, seed=seed)
        values = np.array([LAW.optimum(t, 1e22).inputs["params"] for t in fit.draws])
        low, high = fit.interval(values)
        inside += low <= truth <= high
    return inside / sweeps


def test_intervals_cover():
    # 60 sweeps: a true coverage of 95% leaves this band once in a thousand tests.
    assert coverage(60) >= 0.85


@pytest.mark.slow
def test_intervals_cover_95_percent():
    assert 0.93 <= coverage(1000) <= 0.97


def test_expanded_tail_tends_to_the_nominal_one():
    assert expanded_tail(100_000, 5, 0.95) == pytest.approx(0.025, rel=0.01)
    assert expanded_tail(12, 5, 0.95) < 0.005


def test_cluster_and_noise_bootstrap():
    runs = sweep(3)
    groups = np.repeat(np.arange(6), 8)
    clustered = Runs(columns=runs.columns, lines=runs.lines, groups=groups)
    for how in ("cluster", "noise"):
        fit = fit_law(clustered, LAW, bootstrap=60, resampling=how)
        assert len(fit.draws) > 50
    with pytest.raises(FitError, match="--cluster"):
        fit_law(runs, LAW, bootstrap=10, resampling="cluster")


def test_optimum_can_be_read_off_the_runs():
    runs = sweep(4, noise=0.0)
    expected = TRUE[4] / (TRUE[2] + TRUE[4])
    found = parabolas(runs)
    assert found is not None
    assert found.exponent == pytest.approx(expected, abs=0.03)
    assert envelope(runs) is not None


def test_extrapolation_beats_a_constant():
    found = extrapolate(sweep(5, budgets=10), LAW, bootstrap=200)
    assert found["mean_abs_pct"] < 0.2 * found["baseline_mean_abs_pct"]
    assert found["coverage_90"] >= 75


def test_default_law_spends_as_published():
    s = spend(load_law("besiroglu-2024"), 5.76e23)
    assert s.best.inputs["params"] == pytest.approx(7.225e10, rel=1e-3)
    low, high = s.intervals["params"]
    assert low < s.best.inputs["params"] < high
    assert s.regret is not None
    assert s.regret >= 0
    assert any("largest" in text for text in s.outside)
    with pytest.raises(InvalidInput, match="--force"):
        spend(load_law("besiroglu-2024"), 5.76e26, force=False)


def test_inference_aware_example():
    """Sardana et al.: 13B quality with 2T served tokens is best at 7B and 1.25T, 17% cheaper."""
    theta = LAW.vector({"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.336, "beta": 0.283})
    best, cost = cheapest_for_quality(LAW, theta, 2.0453, 2e12)
    assert best.inputs["params"] == pytest.approx(6.97e9, rel=0.005)
    assert best.inputs["tokens"] == pytest.approx(1.25e12, rel=0.005)
    assert cost == pytest.approx(8.005e22, rel=0.002)
    # The same compute spent for the lowest loss gives the same model.
    back = lifetime_optimum(LAW, theta, cost, 2e12)
    assert back.inputs["params"] == pytest.approx(best.inputs["params"], rel=0.01)


def test_next_run_narrows_the_interval():
    runs = sweep(6)
    fit = fit_law(runs, LAW)
    believed = Believed(name="fit", law=LAW, theta=fit.theta, draws=fit.draws)
    rows = next_runs(believed, runs.data(LAW), fit.noise, 1e23, 1e21)
    assert rows
    assert all(0 < r["interval_left"] <= 1 for r in rows)
    assert all(r["flop"] <= 1e21 * (1 + 1e-9) for r in rows)


def test_series_of_runs_halves_the_interval_when_it_is_done():
    """The linearised promise, kept on average by bootstraps with the proposed runs added."""
    target, left = 1e22, []
    for seed in (8, 9, 10, 11):
        runs = sweep(seed)
        fit = fit_law(runs, LAW, bootstrap=300)
        believed = Believed(name="fit", law=LAW, theta=fit.theta, draws=fit.draws)
        series = runs_to_halve(believed, runs.data(LAW), fit.noise, target, 1e21)
        widths = [r["interval_left"] for r in series]
        assert widths == sorted(widths, reverse=True)
        assert widths[-1] <= 0.5 < widths[-2]
        more = {k: np.array([r[k] for r in series]) for k in ("params", "tokens")}
        noise = 0.005 * np.random.default_rng(seed).standard_normal(len(series))
        more["loss"] = LAW.predict(TRUE, more) * np.exp(noise)
        both = Runs(
            columns={k: np.concatenate([runs.columns[k], more[k]]) for k in more},
            lines=np.arange(2, len(runs) + len(series) + 2),
        )
        ends = []
        for made in (fit_law(both, LAW, bootstrap=300), fit):
            sizes = [LAW.optimum(t, target).inputs["params"] for t in made.draws]
            low, high = made.interval(np.array(sizes))
            ends.append(np.log(high / low))
        left.append(ends[0] / ends[1])
    assert 0.4 < np.exp(np.mean(np.log(left))) < 0.6
    design = Design(believed, runs.data(LAW), fit.noise, target, 1e21)
    assert series[0]["interval_left"] == pytest.approx(float(design.left().min()))


def test_simulated_fits_bear_out_what_a_series_promises():
    runs = sweep(8)
    fit = fit_law(runs, LAW)
    believed = Believed(name="fit", law=LAW, theta=fit.theta, draws=fit.draws)
    given = believed, runs.data(LAW), fit.noise, 1e22
    series = runs_to_halve(*given, 1e21)
    assert simulated_left(*given, series) == pytest.approx(0.5, abs=0.08)
    # Repeating a run that says little about N* leaves the interval as it is.
    dull = [{"params": 1e7, "tokens": 1e9}]
    assert simulated_left(*given, dull) > 0.85


def test_answers_far_outside_the_runs_are_refused_unless_forced():
    law = load_law("besiroglu-2024")
    assert spend(law, 1e24, force=None).outside
    with pytest.raises(InvalidInput, match="more than 10 times"):
        spend(law, 1e26, force=None)
    assert spend(law, 1e26, force=True).outside
    with pytest.raises(InvalidInput, match="compute_flop"):
        spend(load_law("porian-2024-tuned"), 1e24, force=None)


def test_a_form_with_one_published_fit_is_that_fit():
    assert load_law("chinchilla").name == load_law("besiroglu-2024").name
    assert load_law("data-constrained").name == "muennighoff-2023"
    with pytest.raises(InvalidInput, match="several published fits: porian-2024-cosine"):
        load_law("allocation")
    with pytest.raises(InvalidInput, match="without published constants"):
        load_law("broken-power")
    with pytest.raises(UnknownName, match="no published law called 'chinchila'"):
        load_law("chinchila")


def test_demo_file_is_what_its_formula_gives():
    assert demo_file().read_text() == demo_runs()


def test_budgets():
    assert parse_budget("1e24").flop == 1e24
    days = parse_budget("30 days", "64xh100-sxm", mfu=0.4)
    hours = parse_budget("46080 gpu-hours", "h100-sxm", mfu=0.4)
    assert days.flop == pytest.approx(hours.flop)
    for text, says in (("soon", "not a budget"), ("3 days", "--on"), ("-5", "not a budget"),
                       ("0", "above zero"), ("5 parsecs", "no unit")):  # fmt: skip
        with pytest.raises(InvalidInput, match=says):
            parse_budget(text)


def test_published_fits_are_reproduced():
    began = time.process_time()
    found, absent, _ = reproduce(data("laws/README.md").parent)
    wrong = [r for r in found if not r.ok]
    assert not wrong
    assert not absent
    papers = {r.fit for r in found if not r.refit}
    assert sum(all(r.strict for r in found if r.fit == f) for f in papers) >= 20
    assert {"porian-2024 rw tuned short const", "steplaw-2025-lr", "steplaw-2025-batch",
            "clark-2022-hash", "cerebras-2023", "ho-2024"} <= papers  # fmt: skip
    for fit in ("steplaw-2025-lr", "steplaw-2025-batch", "cerebras-2023"):
        assert all(r.strict for r in found if r.fit == fit and "its" not in r.quantity)
    assert time.process_time() - began < 60  # of CPU: other work must not fail this


def test_aggregates_of_benchmarks_are_more_predictable_than_single_ones():
    """Owen 2024: 6 points over one decade of compute for aggregates, more for single tasks."""
    rows = [r for r in read_table(data("laws/obsscaling_base_llm_benchmark_eval.csv"))
            if r["FLOPs (1E21)"] and all(r[k] for k in SCORES)]  # fmt: skip
    law, flop = find_law("benchmark"), column(rows, "FLOPs (1E21)") * 1e21
    flop[flop > 1e25] /= 1e3  # one row's tokens are a thousand times too many
    scores = [column(rows, k) for k in SCORES]
    together, usual = decade_ahead(law, flop, np.mean(scores, axis=0))
    assert together < 7.0
    assert together < 0.5 * usual
    assert together < np.mean([decade_ahead(law, flop, s)[0] for s in scores])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("params,tokens,loss\n1e8,1e9,3\n1e9,1e10,2.5\n", "add 5 more"),
        ("params,tokens,loss\n" + "1e8,1e9,3\n1e8,2e9,2.9\n1e8,3e9,2.8\n" * 4, "same params"),
        ("params,tokens,loss\n1e8,1e9,nan\n", "Line 2 .* positive number"),
        ("params,tokens,loss\n1e8,1e9,3\n1e8,x,3\n", "Line 3 .* not a number"),
        ("size,tokens,loss\n1e8,1e9,3\n", "no column for params"),
        ("params\n", "header line"),
    ],
)
def test_bad_runs_are_sentences(tmp_path, text, says):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises((InvalidInput, FitError), match=says):
        read_runs(path, LAW)


def test_runs_at_one_ratio_say_which_others_would_help():
    n = np.geomspace(3e7, 5e9, 20)
    x = {"params": n, "tokens": 20 * n}
    noise = np.exp(0.004 * np.random.default_rng(0).standard_normal(20))
    runs = Runs(columns={**x, "loss": LAW.predict(TRUE, x) * noise}, lines=np.arange(2, 22))
    (text,) = fit_law(runs, LAW).flat
    assert "params and tokens go together" in text
    assert "a third of their ratio" in text
    assert not fit_law(sweep(3), LAW).flat


def test_duplicates_and_conventions_are_noticed(tmp_path):
    runs = sweep(7)
    c = runs.columns
    lines = [f"{n},{d},{f * 1.2},{y}" for n, d, f, y in
             zip(c["params"], c["tokens"], c["compute_flop"], c["loss"])]  # fmt: skip
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(["params,tokens,flops,loss", *lines, lines[0]]))
    notes = " ".join(read_runs(path, LAW).notes)
    assert "repeat an earlier one" in notes
    assert "C / (N D) is 7.2" in notes


def test_sizes_without_embeddings_give_the_totals_back_and_kaplans_exponent():
    n = np.array([1e6, 1e8, 1e10])
    total = n + EMBEDDING * np.cbrt(n)
    assert total[0] == pytest.approx(5.749e6, rel=1e-3)
    np.testing.assert_allclose(without_embeddings(total), n, rtol=1e-9)
    runs = sweep(9)
    rows = {r["choice"]: r for r in sensitivity(runs, fit_law(runs, LAW))}
    fewer = next(r for c, r in rows.items() if "without embeddings" in c)
    # Small models lose the larger share, so size seems to grow faster with compute.
    assert fewer["exponent_params"] > rows["as fitted (delta 0.001)"]["exponent_params"]


def test_runs_below_the_break_of_small_models_are_noticed(tmp_path):
    c = sweep(7).columns
    rows = [f"{n},{d},{y}" for n, d, y in zip(c["params"], c["tokens"], c["loss"])]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(["params,tokens,loss", *rows]))
    assert not any("reduced-scale" in text for text in read_runs(path, LAW).notes)
    path.write_text("\n".join(["params,tokens,loss", *rows, "1e6,1e8,6.1", "2e6,1e8,5.8"]))
    notes = read_runs(path, LAW).notes
    assert any("2 runs took less" in text for text in notes)
