"""The serving simulator: requests per second, and how its time grows.

python -m benchmarks.serving
"""

from __future__ import annotations

import time

import numpy as np

from isoflop.cost.engines import load_engine
from isoflop.cost.step import StepModel
from isoflop.hardware import load_accelerator
from isoflop.models import load_model
from isoflop.plans import Plan
from isoflop.serving.kernel import compiled
from isoflop.serving.server import Server
from isoflop.serving.simulate import simulate, simulate_stream
from isoflop.serving.traffic import generate as g


def server(sequences: int = 128) -> Server:
    """Llama-3.1-8B on one H100."""
    step = StepModel(
        model=load_model("llama-3.1-8b"), plan=Plan(), device=load_accelerator("h100-sxm"),
        engine=load_engine("vllm"),
    )  # fmt: skip
    return Server(step=step, max_sequences=sequences)


def poisson(requests: int, rate: float, prompt: int = 512, output: int = 128, seed: int = 0):
    """Constant lengths, Poisson arrivals."""
    return g.open_loop(requests=requests, requests_per_s=rate, prompt=g.Lengths(median=prompt),
                       output=g.Lengths(median=output), seed=seed)  # fmt: skip


def throughput() -> None:
    """Requests per CPU second, the loop and its report; against the plain step-by-step loop."""
    if compiled() is None:
        print("numba is not installed: the compiled loop is skipped")
        return
    one = server()
    simulate(one, poisson(300_000, 20))  # compile, or load the compiled loop
    for rate in (20, 30, 36):
        trace = poisson(1_000_000, rate)
        start = time.process_time()
        report = simulate(one, trace)
        seconds = time.process_time() - start
        print(f"simulator: {len(trace) / seconds:,.0f} requests per CPU second at {rate} "
              f"requests/s, mean batch {report.summary['mean_batch']:.0f} "
              f"(512 prompt, 128 output tokens, Poisson)")  # fmt: skip
    short, long = poisson(200_000, 2.0, output=32), poisson(200_000, 0.2, output=3200)
    seconds = []
    for trace in (short, long):
        start = time.process_time()
        simulate(one, trace)
        seconds.append(time.process_time() - start)
    print(
        f"simulator: 100 times the output tokens take {seconds[1] / seconds[0]:.1f} times as long"
    )
    trace = poisson(200_000, 30)
    times = []
    for longest in (1 << 40, 1):
        start = time.process_time()
        simulate(one, trace, longest=longest)
        times.append(time.process_time() - start)
    print(f"simulator: jumping is {times[1] / times[0]:.1f} times as fast as the same loop step "
          "by step")  # fmt: skip


def bounded() -> None:
    """Ten million requests, and the memory they take."""
    if compiled() is None:
        return
    import resource

    one = server()
    simulate(one, poisson(300_000, 20))  # compile, or load the compiled loop
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = np.random.default_rng(0)
    blocks = 50

    def stream():
        start = 0.0
        for _ in range(blocks):
            part = poisson(200_000, 30, seed=int(rng.integers(1 << 30)))
            object.__setattr__(part, "arrival_s", part.arrival_s + start)
            start = float(part.arrival_s[-1])
            yield part

    begin = time.process_time()
    report = simulate_stream(one, stream())
    seconds = time.process_time() - begin
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"simulator: {report.summary['requests']:,} requests in {seconds:.0f} CPU s and "
          f"{grown:,.0f} MiB more memory")  # fmt: skip


def main() -> None:
    """Run everything."""
    bounded()
    throughput()


if __name__ == "__main__":
    main()
