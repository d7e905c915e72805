"""How well training steps and memory are predicted, and whether the fastest plan is chosen.

    python -m benchmarks.training_accuracy [--data ../shared/data] [--cross] [--groups] [--sources]

`--sources` prints errors by source, the table of docs/training.md. `--groups` prints every group of
plans in measured order beside the predicted one. `--cross` refits each device family without a
publisher at all and predicts its rows: the error to expect of a source nobody has seen. It takes
some minutes of CPU.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from attrs import evolve
from tools.calibrate_training import FITTED, TIMED, fit_family, log_errors, publisher

from isoflop.evidence.case import Case, Prediction
from isoflop.evidence.ranking import SAME_RATIO, RankedPlans, kendall_tau, rank_plans
from isoflop.evidence.read import read_cases
from isoflop.evidence.summary import summarise
from isoflop.evidence.training_predict import predict_training
from isoflop.evidence.training_rows import TrainingQuestion
from isoflop.training.memory import memory_parts, total_bytes, usable_bytes
from isoflop.training.plan import Plans

APART = (0.03, 0.1)
"""How far apart pairs are whose order is counted, beside all that are not ties."""
LARGE_GROUP = 20
"""Plans from which on a surface is fitted to a group."""
LAUNCH_SCATTER, DRAWS = 0.14, 20
"""Standard deviation of log time of traced layers that wait for launches, as measured here, and how
often it is drawn."""
ROWS_PER_SOURCE = 12
"""Rows of a source that one refit reads, evenly spaced: no table outvotes the others."""


def read(data: Path) -> list[Case]:
    """Every row that can be priced."""
    names = "measurements.csv", "vtrain_single_node.csv"
    cases = [c for name in names for c in read_cases(data / "training" / name)]
    return [c for c in cases if not c.reason]


def question(case: Case) -> TrainingQuestion:
    """What the row asks."""
    assert isinstance(case.training, TrainingQuestion)
    return case.training


def ranking(predictions: list[Prediction], all_groups: bool = False) -> None:
    """Kendall's tau and the time lost by taking the plan predicted fastest.

    Beside the plain tau, over pairs measured more than 0.1% apart, stand those over pairs further
    apart: what differs by less than a source's own noise has no order.
    """
    groups: dict[str, list[RankedPlans]] = defaultdict(list)
    for group in rank_plans(predictions):
        if group.plans > 2:
            groups[group.source].append(group)
    print("order of measured plans of one job (groups of three and more)")
    for source, found in groups.items():
        lost = np.array([g.regret for g in found])
        tau = apart_tau(found, SAME_RATIO)
        apart = ", ".join(f"{apart_tau(found, r):4.2f} over {r:.0%}" for r in APART)
        print(f"  {source[:44]:44s} {len(found):4d} groups {sum(g.plans for g in found):5d} plans  "
              f"tau {tau:4.2f} ({apart} apart)  chosen within 3%: {np.mean(lost <= 0.03):4.0%}  "
              f"lost on average {lost.mean():5.1%}, at worst {lost.max():5.1%}")  # fmt: skip
        for g in found if all_groups else ():
            print(f"    {g.model} on {g.devices}: tau {g.tau:4.2f}, {g.regret:5.1%} lost")
            for r in g.rows():
                print(f"      {r['plan']:44s} measured {r['measured']:5.2f}  "
                      f"predicted {r['predicted']:5.2f}, place {r['predicted_place']}")  # fmt: skip


def surfaces(predictions: list[Prediction]) -> None:
    """What order a smooth surface has that is fitted to measured plans themselves: a quadratic in
    the logarithms of tensor and pipeline degrees and micro-batch, and in the prediction."""
    groups: dict[str, list[Prediction]] = defaultdict(list)
    for p in predictions:
        if p.predicted and p.case.metric == "step_s" and not question(p.case).recipe.traced:
            q = question(p.case)
            groups[f"{q.job.model.name} on {q.plans[0].devices}"].append(p)
    for name, rows in groups.items():
        if len(rows) < LARGE_GROUP:
            continue
        plans = [question(p.case).plans[0] for p in rows]
        x = np.log2([(p.tensor, p.pipeline, p.micro_batch) for p in plans]).T
        products = [x[i] * x[j] for i in range(3) for j in range(i, 3)]
        own = np.log([p.predicted for p in rows])  # type: ignore[list-item]
        terms = np.stack([np.ones(len(rows)), own, *x, *products], axis=1)
        measured = np.log([p.case.measured for p in rows])
        onto = terms @ np.linalg.pinv(terms)
        fitted = onto @ measured
        apart = measured - (measured - fitted) / (1.0 - np.diag(onto))
        tau, held_out = (kendall_tau(f, measured)[0] for f in (fitted, apart))
        print(f"  {name}, {len(rows)} plans: a quadratic surface fitted to these rows has tau "
              f"{tau:.2f}, {held_out:.2f} on the row it does not see")  # fmt: skip


def apart_tau(groups: list[RankedPlans], ratio: float) -> float:
    """Kendall's tau over all pairs of several groups that were measured more than `ratio` apart."""
    found = [g.tau_apart(ratio) for g in groups]
    pairs = [n for _, n in found]
    return float(np.average([t for t, _ in found], weights=pairs)) if sum(pairs) else float("nan")


def traced_layers(predictions: list[Prediction]) -> None:
    """Of the table of composed steps, the traced layers it is made of, their scatter, and what that
    leaves of the order of plans to a model that is right in the mean."""
    steps = [p for p in predictions if question(p.case).recipe.traced and p.predicted]
    lines = layer_lines(steps)
    if not lines:
        return
    # Narrow layers over many ranks wait for launches alone, of which all have as many.
    waiting = [k for k in lines if k[0] == 1024 and k[1] > 1 and k[2] < 8]
    seconds = np.array([lines[k][0, 0] / 2.0 for k in waiting])
    print(f"one node: {len(steps)} steps composed of {len(lines)} traced layers; {len(waiting)} "
          f"that wait for launches alone took {seconds.min() * 1e3:.2f} to "
          f"{seconds.max() * 1e3:.2f} ms, {seconds.std() / seconds.mean():.0%} apart")  # fmt: skip
    slowest = max(lines[k][0, 1] for k in waiting)
    apart = {k for k, line in lines.items() if line[0, 1] <= slowest}
    taus, chosen = [], []
    rng = np.random.default_rng(0)
    for _ in range(DRAWS):
        factor = {k: float(np.exp(rng.normal(0.0, LAUNCH_SCATTER))) for k in sorted(apart)}
        groups = [
            g for g in rank_plans([scattered(p, lines, factor) for p in steps]) if g.plans > 2
        ]
        taus.append(apart_tau(groups, SAME_RATIO))
        chosen.append(np.mean([g.regret <= 0.03 for g in groups]))
    print(f"  were every prediction the true mean and {LAUNCH_SCATTER:.0%} the scatter of the "
          f"{len(apart)} layers that take no longer: tau {np.mean(taus):.2f} "
          f"(+-{np.std(taus):.2f}), chosen within 3%: {np.mean(chosen):.0%} "
          f"(+-{np.std(chosen):.0%}), {DRAWS} draws")  # fmt: skip


def layer_lines(steps: list[Prediction]) -> dict[tuple[int, int, int], np.ndarray]:
    """Seconds of two micro-batches by depth, for each traced layer: slope and rest, measured and
    predicted; shape (2, 2)."""
    points: dict[tuple[int, int, int], list[tuple[float, float, float]]] = defaultdict(list)
    for p in steps:
        job, plan = question(p.case).job, question(p.case).plans[0]
        twice = job.global_batch == 2 * plan.micro_batch * plan.data
        if twice and plan.pipeline == 1 and plan.data == (2 if plan.tensor == 1 else 1):
            points[layer_of(p)].append((job.model.depth, p.case.measured, p.predicted or 0.0))
    return {k: np.polyfit(np.array(v)[:, 0], np.array(v)[:, 1:], deg=1) for k, v in points.items()}


def scattered(p: Prediction, lines: dict, factor: dict[tuple[int, int, int], float]) -> Prediction:
    """The prediction taken for measured, with its layers' share of the step times their factor."""
    line = lines[layer_of(p)]
    layers = line[0, 1] * question(p.case).job.model.depth
    moved = 1.0 + (factor.get(layer_of(p), 1.0) - 1.0) * layers / (layers + line[1, 1])
    return evolve(p, case=evolve(p.case, measured=(p.predicted or 0.0) * moved))


def layer_of(p: Prediction) -> tuple[int, int, int]:
    """Width, tensor degree and micro-batch: which traced layer a composed step repeats."""
    q = question(p.case)
    return q.job.model.hidden, q.plans[0].tensor, q.plans[0].micro_batch


def memory(predictions: list[Prediction]) -> None:
    """Peaks against measured ones, and measured runs that are predicted not to fit."""
    ratio = np.array([
        p.predicted / p.case.measured for p in predictions
        if p.predicted and p.case.metric == "training_memory_bytes"
    ])  # fmt: skip
    error = np.abs(ratio - 1.0)
    print(f"peak memory: {len(error)} rows, mean {error.mean():.1%}, worst {error.max():.1%}")
    ran: dict[str, list[bool]] = defaultdict(list)
    for p in predictions:
        q = question(p.case)
        if p.case.metric != "training_memory_bytes":
            held = total_bytes(memory_parts(q.job, q.recipe, Plans.of(q.plans))).min()
            ran[publisher(p.case)].append(bool(held <= usable_bytes(q.device)))
    print("plans that ran and are predicted to fit:", ", ".join(
        f"{name} {sum(fit)} of {len(fit)}" for name, fit in sorted(ran.items())
    ))  # fmt: skip


def few(cases: list[Case]) -> list[Case]:
    """At most ROWS_PER_SOURCE rows of every source, evenly spaced."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for c in cases:
        groups[c.source].append(c)
    kept = []
    for rows in groups.values():
        kept += [
            rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, ROWS_PER_SOURCE, dtype=int))
        ]
    return kept


def crossed(cases: list[Case]) -> None:
    """Errors of every publisher's rows under parameters fitted without any of them."""
    print("a publisher left out of the fit of its device family")
    everything = []
    for family in FITTED:
        mine = [c for c in cases if question(c).device.family == family and c.metric in TIMED]
        for name in sorted({publisher(c) for c in mine}):
            others = few([c for c in mine if publisher(c) != name])
            rows = [c for c in mine if publisher(c) == name]
            calibration, _ = fit_family(family, others)
            error = np.abs(np.expm1(log_errors(family, calibration, rows)))
            everything.append((name, error))
            print(f"  {family:10s} {name:16s} {len(rows):5d} rows  mean {error.mean():6.1%}  "
                  f"median {np.median(error):6.1%}", flush=True)  # fmt: skip
    pooled = np.concatenate([e for _, e in everything])
    each = np.mean([e.mean() for _, e in everything])
    print(f"  all {len(pooled)} rows: mean {pooled.mean():.1%}, median {np.median(pooled):.1%}; "
          f"mean over publishers and families {each:.1%}")  # fmt: skip


NAMES = {
    "Korthikanti abstract": "Korthikanti 2022",
    "Megatron-LM README model_table": "Megatron-LM 2024",
    "Megatron-LM README cases_april2021": "Narayanan 2021, table 1",
    "Megatron-LM SC21": "Narayanan 2021, table 2",
    "Megatron-LM images/tables.tex": "Megatron-LM 2020",
    "Megatron-Bridge performance-summary-archive.md ": "NVIDIA Megatron-Bridge tables ",
    'llm-foundry benchmarking/README.md "A100 40GB': "llm-foundry A100 40GB",
    'llm-foundry benchmarking/README.md "A100 80GB': "llm-foundry A100 80GB",
    'llm-foundry benchmarking/README.md "H100 80GB BF16"': "llm-foundry H100 80GB BF16",
    'llm-foundry benchmarking/README.md "H100 80GB BF16 (':
        "llm-foundry H100 80GB BF16, 128 GPUs and more",
    'llm-foundry benchmarking/README.md "H100 80GB FP8': "llm-foundry H100 80GB FP8",
    "torchtitan docs/performance.md": "torchtitan, April 2024",
    "torchtitan benchmarks/llama3_h100_202412": "torchtitan, December 2024",
    "vTrain MICRO24": "vTrain, 64 to 512 A100",
    "vTrain ground_truth_single": "vTrain, one node",
    "SimuMax": "SimuMax, B200",
}  # fmt: skip
"""Names of sources in docs/training.md, by how the data calls them."""


def named(source: str) -> str:
    """The short name of a source; its own where none is known."""
    known = [k for k in NAMES if source.startswith(k)]
    if not known:
        return source
    name = NAMES[max(known, key=len)]
    return name + source.split()[2].split("@")[0] if name.endswith(" ") else name


def baseline(rows: list[Prediction]) -> float:
    """Mean error of one constant for each metric, as `isoflop validate` counts it."""
    each = [r for r in summarise(rows).rows() if r["source"] == "(all sources)"]
    errors = [r["baseline_mean_abs_pct"] for r in each]
    return float(np.average(errors, weights=[r["supported"] for r in each])) / 100.0


def by_source(predictions: list[Prediction]) -> None:
    """The table of docs/training.md: errors of time and memory by source, in Markdown."""
    groups: dict[tuple[str, str, str], list[Prediction]] = defaultdict(list)
    for p in predictions:
        if p.predicted:
            what = "memory" if p.case.metric == "training_memory_bytes" else "time"
            groups[p.case.role, what, named(p.case.source)].append(p)
            groups[p.case.role, what, f"**all {p.case.role}**"].append(p)
    print("| what | source | role | rows | mean error | median | bias | in the 90% interval | "
          "baseline |\n|---|---|---|---:|---:|---:|---:|---:|---:|")  # fmt: skip
    order = sorted(groups, key=lambda k: (k[2].startswith("*"), k[1] == "memory", k[0], k[2]))
    for role, what, name in order:
        rows = groups[role, what, name]
        if what == "memory" and name.startswith("*"):
            continue
        inverse = np.array([p.case.metric not in ("step_s", "training_memory_bytes") for p in rows])
        ratio = np.array([p.predicted / p.case.measured for p in rows])  # type: ignore[operator]
        error = np.where(inverse, 1.0 / ratio, ratio) - 1.0
        inside = np.mean([p.low <= p.case.measured <= p.high for p in rows])  # type: ignore[operator]
        single = name.startswith("*") or len(rows) < 2
        print(f"| {what} | {name} | {role} | {len(rows)} | {np.abs(error).mean():.1%} | "
              f"{np.median(np.abs(error)):.1%} | {error.mean():+.1%} | {inside:.0%} | "
              f"{'-' if single else f'{baseline(rows):.1%}'} |")  # fmt: skip


def report(data: Path, cross: bool = False, groups: bool = False, sources: bool = False) -> None:
    """Print the tables, or say that the measured data is absent."""
    if not (data / "training").exists():
        print("training accuracy: the measured data is not beside this checkout; skipped")
        return
    cases = read(data)
    predictions = predict_training(cases)
    ranking(predictions, groups)
    surfaces(predictions)
    traced_layers(predictions)
    memory(predictions)
    if sources:
        by_source(predictions)
    if cross:
        crossed(cases)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cross", action="store_true")
    parser.add_argument("--groups", action="store_true")
    parser.add_argument("--sources", action="store_true")
    args = parser.parse_args()
    report(args.data, args.cross, args.groups, args.sources)


if __name__ == "__main__":
    main()
