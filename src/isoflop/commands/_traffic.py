"""Options of `simulate` and `advise` that describe traffic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from attrs import frozen
from cyclopts import Parameter

if TYPE_CHECKING:
    from ..serving.traffic import Trace


@Parameter(name="*")
@frozen(kw_only=True)
class Traffic:
    """A trace file, or generated requests."""

    traffic: Path | None = None
    """Trace: Azure CSV, Mooncake JSONL, plain CSV (arrival_s, prompt_tokens, output_tokens) or an
    engine's benchmark log; `demo` is the project's generated example. Without one, requests are
    generated."""

    rate: float | None = None
    """Requests per second; a trace is sped up or slowed down to it, its shape kept."""

    requests: int = 2000
    """Requests to generate, or to read from the front of a trace (0: all)."""

    prompt: str = "512/1500"
    """Generated prompt tokens: a constant, or median/90th percentile."""

    output: str = "128/400"
    """Generated output tokens, likewise."""

    like: Path | None = None
    """A trace whose lengths generated requests have, prompt and output drawn together."""

    burstiness: float = 1.0
    """1 is Poisson; below 1 burstier, above 1 more regular."""

    clients: int = 0
    """Closed loop: so many clients, each sending its next request when the last one ends."""

    think: float = 0.0
    """Seconds a closed-loop client waits before its next request."""

    turns: int = 1
    """Turns of each conversation; above 1, every turn's prompt holds all before it."""

    shared_prefix: int = 0
    """Tokens at the start of every generated prompt that are the same."""

    diurnal: float = 0.0
    """Swing of the rate over a day, as a share of its mean (0 to 1)."""

    seed: int = 0
    """Seed of generated traffic."""

    drop_long: Annotated[bool, Parameter(negative=())] = False
    """Leave out requests that the model or the cache cannot hold, and say how many."""

    def trace(self) -> Trace:
        """The trace these options describe."""
        from ..errors import InvalidInput
        from ..serving.traffic import generate, read_trace

        if self.requests < 0:
            raise InvalidInput(f"The number of requests is {self.requests}; it must be 0 (all) "
                               "or more.")  # fmt: skip
        if self.traffic is not None:
            from ..serving.demo import demo_file

            path = demo_file() if str(self.traffic) == "demo" else self.traffic
            trace = read_trace(path)
            if self.requests and "requests" in self._given():
                trace = trace.head(self.requests)
            return trace.at_rate(self.rate) if self.rate is not None else trace
        prompt, output = generate.Lengths.parse(self.prompt), generate.Lengths.parse(self.output)
        count = self.requests or 2000
        if self.clients:
            return generate.closed_loop(clients=self.clients, requests=max(count, self.clients),
                                        prompt=prompt, output=output, think_s=self.think,
                                        seed=self.seed)  # fmt: skip
        rate = 1.0 if self.rate is None else self.rate
        if self.turns > 1:
            return generate.sessions(
                sessions=max(1, count // self.turns), sessions_per_s=rate / self.turns,
                turns=self.turns, prompt=prompt, output=output, think_s=self.think,
                seed=self.seed,
            )  # fmt: skip
        made = generate.open_loop(
            requests=count, requests_per_s=rate, prompt=prompt, output=output,
            burstiness=self.burstiness, diurnal=self.diurnal, shared_prefix=self.shared_prefix,
            seed=self.seed,
        )  # fmt: skip
        if self.like is None:
            return made
        from ..serving.demo import demo_file

        path = demo_file() if str(self.like) == "demo" else self.like
        return generate.with_lengths_of(made, read_trace(path), self.seed)

    def _given(self) -> set[str]:
        return {"requests"} if self.requests != 2000 else set()


DEFAULT_TRAFFIC = Traffic()
