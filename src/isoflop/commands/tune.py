"""`isoflop tune SPACE.toml --command ...`: search the settings of expensive runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from ..tuning.trial import History, Trial


def tune(
    space: str,
    *,
    command: str = "",
    method: str = "carbs",
    trials: int = 40,
    log: Path | None = None,
    timeout: float = 0.0,
    seed: int = 0,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Search the settings of an expensive run: the front of loss and cost, or under constraints.

    Parameters
    ----------
    space
        A TOML file with one table per setting (scale, low, high, start), or `demo`: a made-up run
        whose best is known.
    command
        The run, with settings in braces: 'python train.py --lr {lr}'. The last line it prints is
        JSON with loss and, if it likes, cost and constraints (kept where at most 0).
    method
        carbs (front of loss and cost), config (constraints) or random.
    trials
        Runs, those already in the log included.
    log
        JSON lines file: every run as it ends; an interrupted search goes on from it.
    timeout
        Seconds after which a run counts as failed; 0 waits.
    seed
        Seed of the search.
    json
        Print JSON.
    """
    from ..errors import InvalidInput
    from ..tuning.demo import LIMIT, SPACE, demo_objective
    from ..tuning.search import tune as search
    from ..tuning.searcher import find_searcher
    from ..tuning.space import read_space
    from ..tuning.trial import command_objective
    from ._output import print_json, progress_bar

    if not 1 <= trials <= 100_000:
        raise InvalidInput(f"A search has between 1 and 100,000 trials, not {trials}.")
    searcher = find_searcher(method)
    objective: Any
    if space == "demo":
        limit = LIMIT if searcher.constrained else None
        found_space, objective = SPACE, demo_objective(seed, limit=limit)
    else:
        if not command:
            raise InvalidInput("Say how to run a configuration: --command 'python train.py ...'.")
        found_space = read_space(Path(space))
        objective = command_objective(command, timeout or None)
    with progress_bar("runs", trials >= 10) as progress:
        history = search(objective, found_space, searcher, trials=trials, seed=seed, log=log,
                         progress=progress)  # fmt: skip
    if json:
        print_json(_record(history, method))
        return
    _print(history, method)
    best = history.best()
    if space == "demo" and best is not None:
        from ..tuning.demo import demo_best
        from ._output import console

        cost = LIMIT if searcher.constrained else best.cost
        console().print(f"Lowest loss {best.loss:.4f}, at a cost of {best.cost:.4g}; the demo's "
                        f"law allows {demo_best(cost):.4f} up to {cost:.4g}.")  # fmt: skip


def _row(trial: Trial) -> dict[str, Any]:
    return {"loss": trial.loss, "cost": trial.cost, **trial.config, **trial.constraints}


def _record(history: History, method: str) -> dict[str, Any]:
    best = history.best()
    return {
        "method": method, "trials": len(history.trials),
        "failed": sum(t.failed for t in history.trials),
        "repeated": sum(t.repeated for t in history.trials),
        "best": None if best is None else _row(best),
        "front": [_row(t) for t in history.front()],
    }  # fmt: skip


def _print(history: History, method: str) -> None:
    from ._output import console, table

    out, record = console(), _record(history, method)
    out.print(
        f"{record['trials']} runs with {method}: {record['failed']} failed, {record['repeated']} "
        "known from a functionally equal one."
    )
    if record["best"] is None:
        out.print("No run keeps the constraints yet: search on with the same --log.")
        return
    names = list(record["best"])
    rows = [[f"{r[k]:.4g}" if isinstance(r[k], float) else str(r[k]) for k in names]
            for r in record["front"]]  # fmt: skip
    out.print(table("Runs that no other beats on both cost and loss", names, rows))
