"""How well training steps and memory are predicted, and whether the fastest plan is chosen.

    python -m benchmarks.training_accuracy [--data ../shared/data] [--cross] [--groups]

`--groups` prints every group of plans in measured order beside the predicted one. `--cross` refits
each device family without a publisher at all and predicts its rows: the error to expect of a source
nobody has seen. It takes some minutes of CPU.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from tools.calibrate_training import FITTED, TIMED, fit_family, log_errors, publisher

from isoflop.evidence.case import Case, Prediction
from isoflop.evidence.ranking import RankedPlans, rank_plans
from isoflop.evidence.read import read_cases
from isoflop.evidence.training_predict import predict_training
from isoflop.evidence.training_rows import TrainingQuestion
from isoflop.training.memory import memory_parts, total_bytes, usable_bytes
from isoflop.training.plan import Plans

APART = (0.03, 0.1)
"""How far apart pairs are whose order is counted, beside all that are not ties."""
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
        tau = np.average([g.tau for g in found], weights=[g.pairs for g in found])
        apart = ", ".join(f"{apart_tau(found, r):4.2f} over {r:.0%}" for r in APART)
        print(f"  {source[:44]:44s} {len(found):4d} groups {sum(g.plans for g in found):5d} plans  "
              f"tau {tau:4.2f} ({apart} apart)  chosen within 3%: {np.mean(lost <= 0.03):4.0%}  "
              f"lost on average {lost.mean():5.1%}, at worst {lost.max():5.1%}")  # fmt: skip
        for g in found if all_groups else ():
            print(f"    {g.model} on {g.devices}: tau {g.tau:4.2f}, {g.regret:5.1%} lost")
            for r in g.rows():
                print(f"      {r['plan']:44s} measured {r['measured']:5.2f}  "
                      f"predicted {r['predicted']:5.2f}, place {r['predicted_place']}")  # fmt: skip


def apart_tau(groups: list[RankedPlans], ratio: float) -> float:
    """Kendall's tau over all pairs of several groups that were measured more than `ratio` apart."""
    found = [g.tau_apart(ratio) for g in groups]
    pairs = [n for _, n in found]
    return float(np.average([t for t, _ in found], weights=pairs)) if sum(pairs) else float("nan")


def traced_layers(cases: list[Case]) -> None:
    """Of the table of composed steps, the traced layers it is made of and their own scatter."""
    layers: dict[tuple[int, int, int], list[tuple[int, float]]] = defaultdict(list)
    for c in cases:
        q = question(c)
        p = q.plans[0]
        if q.recipe.traced and p.pipeline == 1 and p.data == (2 if p.tensor == 1 else 1):
            key = q.job.model.hidden, p.tensor, p.micro_batch
            if q.job.global_batch == 2 * p.micro_batch * p.data:
                layers[key].append((q.job.model.depth, c.measured / 2))
    each = {k: float(np.polyfit(*np.array(v).T, deg=1)[0]) for k, v in layers.items()}
    # Narrow layers over many ranks wait for launches alone, of which all have as many.
    waiting = np.array([s for (h, t, m), s in each.items() if h == 1024 and t > 1 and m < 8])
    if len(waiting):
        print(f"one node: {sum(question(c).recipe.traced for c in cases)} steps composed of "
              f"{len(each)} traced layers; {len(waiting)} that wait for launches alone took "
              f"{waiting.min() * 1e3:.2f} to {waiting.max() * 1e3:.2f} ms, "
              f"{waiting.std() / waiting.mean():.0%} apart")  # fmt: skip


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


def report(data: Path, cross: bool = False, groups: bool = False) -> None:
    """Print the tables, or say that the measured data is absent."""
    if not (data / "training").exists():
        print("training accuracy: the measured data is not beside this checkout; skipped")
        return
    cases = read(data)
    predictions = predict_training(cases)
    ranking(predictions, groups)
    traced_layers(cases)
    memory(predictions)
    if cross:
        crossed(cases)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cross", action="store_true")
    parser.add_argument("--groups", action="store_true")
    args = parser.parse_args()
    report(args.data, args.cross, args.groups)


if __name__ == "__main__":
    main()
