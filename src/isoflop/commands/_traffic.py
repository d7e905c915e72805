"""Options of `simulate` and `advise` that describe traffic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from attrs import fields, frozen
from cyclopts import Parameter

from ._options import Count

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

    requests: Count | None = None
    """Requests to generate (2000 if not said), or to read from the front of a trace (0: all, as
    if not said)."""

    prompt: str = "512/1500"
    """Generated prompt tokens: a constant, or median/90th percentile."""

    output: str = "128/400"
    """Generated output tokens, likewise."""

    like: Path | None = None
    """A trace whose lengths generated requests have, prompt and output drawn together."""

    burstiness: float = 1.0
    """1 is Poisson; below 1 burstier, above 1 more regular."""

    clients: Count = 0
    """Closed loop: so many clients, each sending its next request when the last one ends."""

    think: float = 0.0
    """Seconds a closed-loop client waits before its next request."""

    turns: int = 1
    """Turns of each conversation; above 1, every turn's prompt holds all before it."""

    shared_prefix: Count = 0
    """Tokens at the start of every generated prompt that are the same."""

    diurnal: float = 0.0
    """Swing of the rate over a day, as a share of its mean (0 to 1)."""

    seed: int = 0
    """Seed of generated traffic."""

    drop_long: Annotated[bool, Parameter(negative=())] = False
    """Leave out requests that the model or the cache cannot hold, and say how many."""

    def trace(self, longest: int) -> Trace:
        """The trace these options describe.

        Parameters
        ----------
        longest : int
            Tokens of a request that the model serves at most: the tail of generated lengths is cut
            to it. A trace, a constant and a median are what they are.
        """
        from ..errors import InvalidInput
        from ..serving.traffic import generate, read_trace

        for value, least, what in (
            (self.requests or 0, 0, "number of requests"), (self.clients, 0, "number of clients"),
            (self.turns, 1, "number of turns"), (self.seed, 0, "seed"),
        ):  # fmt: skip
            if value < least:
                raise InvalidInput(f"The {what} is {value}; it must be {least} or more.")
        self._refuse_what_does_not_apply()
        if self.traffic is not None:
            trace = read_trace(_file(self.traffic))
            trace = trace.head(self.requests) if self.requests else trace
            return trace.at_rate(self.rate) if self.rate is not None else trace
        prompt, output = generate.within(
            generate.Lengths.parse(self.prompt), generate.Lengths.parse(self.output), longest
        )
        count = self.requests or 2000
        rate = 1.0 if self.rate is None else self.rate
        if self.turns > 1:
            return generate.sessions(
                sessions=max(1, count // self.turns), sessions_per_s=rate / self.turns,
                turns=self.turns, prompt=prompt, output=output, think_s=self.think,
                seed=self.seed,
            )  # fmt: skip
        if self.clients:
            made = generate.closed_loop(clients=self.clients, requests=max(count, self.clients),
                                        prompt=prompt, output=output, think_s=self.think,
                                        seed=self.seed)  # fmt: skip
        else:
            made = generate.open_loop(
                requests=count, requests_per_s=rate, prompt=prompt, output=output,
                burstiness=self.burstiness, diurnal=self.diurnal,
                shared_prefix=self.shared_prefix, seed=self.seed,
            )  # fmt: skip
        if self.like is None:
            return generate.say_cut(made, prompt, output)
        return generate.with_lengths_of(made, read_trace(_file(self.like)), self.seed)

    def _refuse_what_does_not_apply(self) -> None:
        """An option that would change nothing is a misunderstanding."""
        from ..errors import InvalidInput

        if self.traffic is not None:
            kind, takes = "a trace", {"traffic", "rate", "requests"}
        elif self.clients:
            kind, takes = "a closed loop", {"clients", "think", "requests", "prompt", "output",
                                            "like"}  # fmt: skip
        elif self.turns > 1:
            kind, takes = "conversations", {"turns", "think", "rate", "requests", "prompt",
                                            "output"}  # fmt: skip
        else:
            kind, takes = "generated requests", {"rate", "requests", "prompt", "output", "like",
                                                 "burstiness", "shared_prefix",
                                                 "diurnal"}  # fmt: skip
        if self.like is not None:
            takes = takes - {"prompt", "output"}
        for one in fields(Traffic):
            if one.name in takes | {"seed", "drop_long"} or getattr(self, one.name) == one.default:
                continue
            names = ", ".join(sorted(f"--{n.replace('_', '-')}" for n in takes))
            raise InvalidInput(
                f"--{one.name.replace('_', '-')} does not apply to {kind}"
                f"{' with --like' if self.like is not None else ''}, which takes {names}."
            )


def _file(path: Path) -> Path:
    """The file of a trace; that of the generated example for `demo`."""
    from ..serving.demo import demo_file

    return demo_file() if str(path) == "demo" else path


DEFAULT_TRAFFIC = Traffic()
