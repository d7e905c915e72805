"""The command line: arguments in, library call, rendered answer out. No arithmetic here.

Commands live in `isoflop/commands/`, one file each, and are imported only when called; the parser
is imported only when there is a command to parse, so that `isoflop --help` stays fast.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import __version__
from .errors import IsoflopError

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError

SUMMARY = "What bounds a language-model computation, and where the next unit of compute should go."

COMMANDS: dict[str, tuple[str, str]] = {
    "explain": (
        "isoflop.commands.explain:explain",
        "What bounds a model on a device, from batch 1 to its limit, and what would help most.",
    ),
    "simulate": (
        "isoflop.commands.simulate:simulate",
        "Real traffic through an engine: latencies by percentile, throughput, energy, price.",
    ),
    "sweep": (
        "isoflop.commands.sweep:sweep",
        "Many simulations over lists of settings, on all cores, resumable.",
    ),
    "advise": (
        "isoflop.commands.advise:advise",
        "The cheapest serving configuration that keeps a latency promise, and why.",
    ),
    "measure": (
        "isoflop.commands.measure:measure",
        "Calibrate a server on a measured run of its own: four numbers from half its requests.",
    ),
    "methods": (
        "isoflop.commands.methods:app",
        "Serving ideas from papers, priced for a model and a device.",
    ),
    "fit": (
        "isoflop.commands.fit:fit",
        "A scaling law from training runs, with honest intervals.",
    ),
    "spend": (
        "isoflop.commands.spend:spend",
        "Where a training budget should go, and how sure that is.",
    ),
    "tune": (
        "isoflop.commands.tune:tune",
        "Search the settings of expensive runs: loss against cost, or under constraints.",
    ),
    "score": (
        "isoflop.commands.score:app",
        "Score training methods by time to result, equal hours, or few samples.",
    ),
    "laws": (
        "isoflop.commands.laws:app",
        "List, show and compare published scaling laws, and reproduce them from public runs.",
    ),
    "plan": (
        "isoflop.commands.plan:plan",
        "The fastest training plan that fits a fleet, its time, price and risk, and what helps.",
    ),
    "training": (
        "isoflop.commands.training:app",
        "Pipeline schedules, failures and recomputation, one by one.",
    ),
    "validate": (
        "isoflop.commands.validate:validate",
        "Predict every row of a measurement file and report the error by source.",
    ),
    "quantize": (
        "isoflop.commands.quantize:quantize",
        "What a number format and a method do to a checkpoint's real tensors.",
    ),
    "formats": (
        "isoflop.commands.formats:app",
        "List, show and compare number formats, and check them against conformance tables.",
    ),
    "catalog": (
        "isoflop.commands.catalog:app",
        "List, show, check and create catalog entries (accelerators, models, formats, ...).",
    ),
}
"""Command name -> where its function or app lives, and its one-line help."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit code 0 on success, 2 on any wrong input, 130 on interrupt."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given in ([], ["--help"], ["-h"]):
            print(_overview())
        elif given == ["--version"]:
            print(__version__)
        else:
            _run(given)
    except IsoflopError as error:
        _fail(str(error))
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        print("isoflop: interrupted.", file=sys.stderr)
        raise SystemExit(130) from None


def _overview() -> str:
    """The page of `isoflop --help`: every command with its one-line help."""
    import shutil
    import textwrap

    width = min(shutil.get_terminal_size().columns, 100)
    indent = 2 + max(map(len, COMMANDS)) + 2
    lines = ["Usage: isoflop COMMAND [OPTIONS]", "", *textwrap.wrap(SUMMARY, width), "", "Commands"]
    for name, (_, summary) in sorted(COMMANDS.items()):
        first = f"  {name}".ljust(indent)
        lines += textwrap.wrap(summary, width, initial_indent=first, subsequent_indent=" " * indent)
    return "\n".join([*lines, "", "`isoflop COMMAND --help` lists a command's options."])


def _run(arguments: list[str]) -> None:
    """Parse the arguments of a command and call it."""
    from cyclopts import CycloptsError

    try:
        _app()(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        command = " ".join(["isoflop", *(error.command_chain or ())])
        _fail(f"{_plain(error)} See `{command} --help`.")


def _app() -> App:
    """Every command by name; none is imported before it is called."""
    from cyclopts import App

    from .commands._help import HelpPages

    app = App(name="isoflop", help=SUMMARY, version=__version__, help_format="plaintext",
              help_formatter=HelpPages())  # fmt: skip
    for name, (target, summary) in COMMANDS.items():
        app.command(target, name=name, help=summary)
    return app


def _plain(error: CycloptsError) -> str:
    from cyclopts import UnusedCliTokensError

    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        words = ", ".join(f"'{token}'" for token in error.unused_tokens)
        return f"The command takes no {words} here."
    text = " ".join(str(error).split())
    return text if text.endswith((".", "!", "?")) else text + "."


def _fail(message: str) -> None:
    print(f"isoflop: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
