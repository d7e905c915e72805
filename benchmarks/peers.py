"""`advise` beside aiconfigurator and the simulator beside vidur, each in the same run.

    python -m benchmarks.peers --aiconfigurator VENV/bin/aiconfigurator --vidur VENV/bin/python

Peers are optional and live in environments of their own (`pip install aiconfigurator`, `pip install
vidur`). aiconfigurator answers the same question from tables of measured kernels, with means and
no tails; of vidur the event loop alone is timed, see `benchmarks.vidur_loop`.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

QUESTIONS = (
    ("llama-3.1-8b", "8xh200", "meta-llama/Meta-Llama-3.1-8B", 8),
    ("deepseek-v3", "32xh200", "deepseek-ai/DeepSeek-V3", 32),
)
"""Model and fleet here; model and number of H200 there."""


def cpu_s(command: Sequence[str], timeout_s: float | None = None) -> float | None:
    """CPU seconds of a command and its children; None where it fails or takes too long."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, "OMP_NUM_THREADS": "1"},
                               start_new_session=True)  # fmt: skip
    try:
        code = started.wait(timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)  # its children too
        started.wait()
        return None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        return None
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def loops(python: str, timeout_s: float) -> None:
    """Requests per CPU second of both event loops, 512 prompt and 128 output tokens."""
    from benchmarks.serving import poisson, server
    from isoflop.serving.simulate import simulate

    one, trace = server(), poisson(1_000_000, 20)
    simulate(one, trace.head(300_000))  # compile, or load the compiled loop
    start = time.process_time()
    simulate(one, trace)
    ours = len(trace) / (time.process_time() - start)
    script = Path(__file__).resolve().with_name("vidur_loop.py")
    try:
        with tempfile.TemporaryDirectory() as folder:  # it writes its settings where it runs
            found = subprocess.run(
                [python, str(script)], capture_output=True, text=True, check=True, cwd=folder,
                timeout=timeout_s, env={**os.environ, "OMP_NUM_THREADS": "1",
                                        "WANDB_MODE": "disabled"},
            )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        print(f"peers: vidur did not run: {error}")
        return
    theirs = float(found.stdout.split()[-1])
    print(f"peers: simulator {ours:,.0f} requests per CPU s, steps, latencies and report included; "
          f"vidur's loop alone {theirs:,.0f}: {ours / theirs:,.0f} times")  # fmt: skip


def main() -> None:
    """Ask both and print the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--aiconfigurator", default=shutil.which("aiconfigurator") or "")
    parser.add_argument("--vidur", default="", help="Python of an environment with vidur")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds per question")
    arguments = parser.parse_args()
    peer, timeout_s = arguments.aiconfigurator, arguments.timeout
    if arguments.vidur:
        loops(arguments.vidur, timeout_s)
    else:
        print("peers: vidur is not installed; skipped")
    for model, fleet, theirs, count in QUESTIONS:
        ours = cpu_s([sys.executable, "-m", "isoflop", "advise", model, "--on", fleet, "--rate",
                      "10", "--prompt", "1024", "--output", "256", "--weights", "fp8",
                      "--slo", "ttft<1s@p99,tpot<50ms@p95"])  # fmt: skip
        if ours is None:
            print(f"peers: advise {model} on {fleet} found nothing within the promise")
            continue
        print(f"peers: advise {model} on {fleet}: {ours:.2f} CPU s, p99 from simulation")
        if not peer:
            print("peers: aiconfigurator is not installed; skipped")
            continue
        took = cpu_s([peer, "cli", "default", "--model-path", theirs, "--total-gpus", str(count),
                      "--system", "h200_sxm", "--backend", "vllm", "--isl", "1024", "--osl", "256",
                      "--ttft", "1000", "--tpot", "50"], timeout_s)  # fmt: skip
        if took is None:
            print(f"peers: aiconfigurator gave no answer for {theirs} within {timeout_s:g} s")
        else:
            print(f"peers: aiconfigurator {theirs} on {count} H200: {took:.1f} CPU s, means only; "
                  f"{took / ours:.0f} times ours")  # fmt: skip


if __name__ == "__main__":
    main()
