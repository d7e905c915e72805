"""Cold starts: whole processes of the command line, in seconds of clock and of CPU.

    python -m benchmarks.cold

As in an installed package, modules have been compiled to bytecode by an earlier run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

RUNS = 5
COMMANDS = {
    "--help": 0.3,
    "explain --help": None,
    "explain llama-3.1-8b --on h100-sxm": 1.5,
    "advise llama-3.1-8b --on 8xh100-sxm --traffic demo": 1.0,
    "advise deepseek-v3 --on 32xh200": 1.0,
    "advise deepseek-v3 --on 32xh200 --traffic demo": 1.0,
    "simulate llama-3.1-8b --on h100-sxm --traffic demo": None,
    "plan llama-3.1-70b --on 512xdgx-h100 --tokens 2T": None,
    "fit demo": None,
    "spend 1e24": None,
}
"""Command -> the seconds it should stay under, where there is such a figure."""


def cold(arguments: list[str]) -> tuple[float, float]:
    """Seconds of one whole process: by the clock, and of CPU."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    started = subprocess.Popen([sys.executable, "-m", "isoflop", *arguments],
                               stdout=subprocess.DEVNULL, env=environment)  # fmt: skip
    _, status, used = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        raise SystemExit(f"isoflop {' '.join(arguments)} failed: exit code {started.returncode}")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime


def main() -> None:
    """The best of several runs of each command; of advise, p99 comes from simulation."""
    for command, goal in COMMANDS.items():
        cold(command.split())
        runs = [cold(command.split()) for _ in range(RUNS)]
        wall, cpu = (min(column) for column in zip(*runs))
        target = f" (under {goal} s is the goal)" if goal else ""
        print(f"isoflop {command}: {wall:.2f} s cold, {cpu:.2f} CPU s, best of {RUNS}{target}")


if __name__ == "__main__":
    main()
