"""End-to-end rows flattened for fitting engines: kernel times tabulated once, engines applied.

A row's steady state visits one context, so its decoding kernels are a curve over sequences. All
rows together are then one closed loop of arrays, priced under any engine in milliseconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from attrs import evolve, frozen

from isoflop.cost.engines import Engine, engine_of, load_engine
from isoflop.cost.features import Array, Batch
from isoflop.cost.interval import step_sigma
from isoflop.cost.step import StepModel
from isoflop.cost.table import knots
from isoflop.evidence.case import Case
from isoflop.evidence.predict import run_of
from isoflop.evidence.read import read_cases
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.serving.instance import BARE, InstanceTables
from isoflop.serving.steady import ClosedRun, closed_loop, mean_context

SEQUENCES = knots(16384, ratio=1.35)
"""Common knots of the rows' curves."""


@frozen(kw_only=True, eq=False)
class Rows:
    """Measured rows and what their kernels cost.

    Attributes
    ----------
    cases : tuple of Case
        TPOT cases, equal measurements of equal configurations once.
    values : dict of str to array (rows,)
        Clients, lengths, run, kernel seconds of prompts, the spread of the kernels' own errors,
        and measured TPOT and TTFT by name.
    decode_s : array (rows, knots)
        Kernel seconds of a decoding step at the row's context over `SEQUENCES`.
    """

    cases: tuple[Case, ...]
    values: dict[str, Array]
    decode_s: Array

    def where(self, mask: Array) -> Rows:
        """The rows of a Boolean mask."""
        return Rows(
            cases=tuple(c for c, keep in zip(self.cases, mask, strict=True) if keep),
            values={k: v[mask] for k, v in self.values.items()},
            decode_s=self.decode_s[mask],
        )

    def of(self, name: str) -> Array:
        """An attribute of the cases, as an array of strings."""
        return np.array([str(getattr(c, name)) for c in self.cases])

    def errors(self, engine: Engine, acceptance: float | None = None) -> Array:
        """log(predicted / measured), rows of the result: TPOT, TTFT, tokens per second.

        0 where no TTFT was measured. Tokens per second are those of clients that send the next
        request as the last one ends, measured and predicted.

        `acceptance` replaces that of the rows' runs.
        """
        v = self.values
        scale = np.array([engine.scale(f) for f in v["family"]])
        row = np.arange(len(self.cases))
        layers = engine.step_s + engine.layer_s * v["depth"]
        gained = v["gained"] if acceptance is None else self._gained(acceptance)

        def decode_s(sequences: Array, _: Array) -> Array:
            i = np.searchsorted(SEQUENCES, sequences, side="right") - 1
            i = np.clip(i, 0, len(SEQUENCES) - 2)
            u = np.clip((sequences - SEQUENCES[i]) / (SEQUENCES[i + 1] - SEQUENCES[i]), 0.0, 1.0)
            kernels = self.decode_s[row, i] * (1.0 - u) + self.decode_s[row, i + 1] * u
            kernels = np.maximum(kernels - engine.captured * v["launch_s"], 0.5 * kernels)
            return scale * kernels + layers + engine.sequence_s * sequences

        def prefill_s(prompts: Array, _: Array) -> Array:
            count = np.maximum(prompts, 1.0)
            seconds = v["alone_s"] + v["further_s"] * (count - 1.0)
            return engine.prefill_scale * scale * seconds + layers + engine.sequence_s * count

        state = closed_loop(
            decode_s, prefill_s, clients=v["clients"], prompt_tokens=v["prompt"],
            output_tokens=v["output"], chunk_tokens=v["chunk"], arrival_s=engine.arrival_s,
            burst=engine.burst, output_cv=v["spread"], lag_steps=engine.lag_steps + v["wait"],
            tokens_per_step=gained,
            run=ClosedRun(rounds=v["rounds"], shortest=v["shortest"]),
        )  # fmt: skip
        more = v["output"] - 1.0
        lives = (state.ttft_s + more * state.tpot_s, v["ttft_s"] + more * v["tpot_s"])
        return np.nan_to_num(np.log(np.stack([
            state.tpot_s / v["tpot_s"], state.ttft_s / v["ttft_s"], lives[1] / lives[0],
        ])))  # fmt: skip

    def _gained(self, acceptance: float) -> Array:
        return np.array([
            evolve(c.protocol, acceptance=acceptance if c.protocol.drafts else 0.0).tokens_per_step
            for c in self.cases
        ])  # fmt: skip


def read_rows(path: Path) -> Rows:
    """Every priceable row of the silicon table."""
    first: dict[int, float] = {}
    members: dict[tuple, list[Case]] = defaultdict(list)
    seen = set()
    for c in read_cases(path):
        if c.metric == "ttft_s":
            first[c.line] = c.measured
        if c.metric != "tpot_s" or c.reason or c.otherwise:
            continue
        key = (c.engine, c.device, model_of(c), c.plan, c.prompt_tokens, c.output_tokens,
               c.concurrency, c.protocol, f"{c.measured:.3g}")  # fmt: skip
        if key not in seen:
            padded = load_engine(engine_of(c.engine, c.release)).padded_experts
            members[c.model, c.device, c.plan, c.protocol.drafts, padded].append(c)
        seen.add(key)
    parts = [_tabulate(cases, first, padded=k[-1]) for k, cases in members.items()]
    kept = [p for p in parts if p is not None]
    return Rows(
        cases=tuple(c for p in kept for c in p.cases),
        values={k: np.concatenate([p.values[k] for p in kept]) for k in kept[0].values},
        decode_s=np.concatenate([p.decode_s for p in kept]),
    )


def model_of(case: Case) -> str:
    """Model family: checkpoints, sizes and formats of one architecture are one."""
    name = case.model.lower().rpartition("/")[2]
    families = ("llama", "qwen3.5", "qwen3-235b", "qwen3", "gpt-oss", "kimi", "deepseek")
    return next((f for f in families if f in name), name)


def _tabulate(cases: Sequence[Case], first: Mapping[int, float], *, padded: bool) -> Rows | None:
    """Rows of one instance; None where it cannot be priced."""
    one = cases[0]
    try:
        step = StepModel(
            model=load_model(one.model), plan=one.plan, device=load_accelerator(one.device),
            engine=evolve(BARE, padded_experts=padded),
        )  # fmt: skip
        clients, prompt, output, spread = (
            np.array([getattr(c, k) for c in cases], float)
            for k in ("concurrency", "prompt_tokens", "output_tokens", "output_cv")
        )
        tables = InstanceTables.build(step, clients, prompt, output, spread, one.protocol.drafts)
    except Exception as error:
        print(f"  skipped {one.model} on {one.device}: {str(error)[:90]}")
        return None
    run, at = run_of(cases), np.searchsorted(tables.lengths, prompt)
    more = (tables.batched_s - tables.alone_s) / np.maximum(tables.together - 1.0, 1.0)
    context = mean_context(prompt, output, spread)
    batch = Batch(decode_sequences=clients / step.plan.data, decode_context=context)
    kernels = step.operator_s(batch)
    known = evolve(BARE, kernel_scale={step.device.family: 1.0})
    sigma = step_sigma(step.operators, kernels, np.zeros(len(cases)), step.timer, known)
    same = {
        "family": step.device.family, "depth": float(step.model.depth), "launch_s": step.launch_s,
        "chunk": 8192.0 * step.plan.data,
    }  # fmt: skip
    values = {k: np.full(len(cases), v) for k, v in same.items()} | {
        "clients": clients, "prompt": prompt, "output": output, "spread": spread,
        "wait": run["wait_steps"], "gained": run["tokens_per_step"],
        "rounds": run["run"].rounds, "shortest": run["run"].shortest,
        "alone_s": tables.alone_s[at], "further_s": more[at],
        "kernel_sigma": sigma, "tpot_s": np.array([c.measured for c in cases]),
        "ttft_s": np.array([first.get(c.line, np.nan) for c in cases]),
    }  # fmt: skip
    curves = tables.decode.decode_s(*np.broadcast_arrays(SEQUENCES[None, :], context[:, None]))
    return Rows(cases=tuple(cases), values=values, decode_s=curves)
