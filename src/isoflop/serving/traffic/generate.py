"""Generated traffic: arrivals, lengths, closed loops, sessions and shared prefixes."""

from __future__ import annotations

import numpy as np
from attrs import evolve, frozen

from ...cost.features import Array
from ...errors import InvalidInput
from ...units import whole
from .trace import Trace

UNIT_TOKENS = 16
"""Prefix units of generated traffic: one page of the usual paged cache."""


@frozen(kw_only=True)
class Lengths:
    """A distribution of lengths: constant, lognormal from percentiles, or drawn from a trace.

    Attributes
    ----------
    median : float
    p90 : float
        Equal to the median for a constant.
    most : int
        Longer draws are cut to it.
    sample : tuple of int
        If given, lengths are drawn from it instead.
    """

    median: float
    p90: float = 0.0
    most: int = 1 << 30
    sample: tuple[int, ...] = ()

    def __attrs_post_init__(self) -> None:
        if not self.sample and not (np.isfinite(self.median) and self.median >= 1):
            raise InvalidInput(f"A length has a median of at least 1 token, not {self.median}.")

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """`count` lengths, whole numbers of at least 1."""
        if self.sample:
            return rng.choice(np.array(self.sample), count)
        if self.p90 <= self.median:
            return np.full(count, round(self.median), np.int64)
        # 1.2816: the 90th percentile of a standard normal.
        sigma = np.log(self.p90 / self.median) / 1.2815515655446004
        values = np.round(self.median * np.exp(sigma * rng.standard_normal(count)))
        return np.clip(values, 1, self.most).astype(np.int64)

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """`"512"`, `"2k"`, or `"512/2048"` for a median and a 90th percentile."""
        parts = [whole(part) for part in text.split("/")]
        if len(parts) > 2 or any(part is None or part < 0 for part in parts):
            raise InvalidInput(
                f"'{text}' is not a length. Write tokens (512 or 2k) or a median and a 90th "
                "percentile (512/2048)."
            )
        median, p90 = float(parts[0] or 0), float(parts[-1] or 0)
        if p90 < median:
            raise InvalidInput(
                f"'{text}' has a 90th percentile below its median. Write the median first."
            )
        return cls(median=median, p90=p90)


OUTPUT_SHARE = 0.25
"""Of a model's context, the longest generated output; a prompt may fill the rest."""


def within(prompt: Lengths, output: Lengths, longest: int) -> tuple[Lengths, Lengths]:
    """Two distributions with their tails cut so that every pair of draws fits `longest` tokens.

    A constant, and a median that is longer itself, stay: such a request is the user's own.
    """
    if output.p90 > output.median:
        output = evolve(output, most=max(int(longest * OUTPUT_SHARE), round(output.median)))
    room = longest - (output.most if output.p90 > output.median else round(output.median))
    if prompt.p90 > prompt.median and room >= prompt.median:
        prompt = evolve(prompt, most=room)
    return prompt, output


def say_cut(trace: Trace, prompt: Lengths, output: Lengths) -> Trace:
    """The trace, whose name says to what lengths draws were cut, if any were."""
    cut = [
        f"the longest {what} cut to {lengths.most:,} tokens"
        for what, lengths, drawn in (("prompts", prompt, trace.prompt_tokens),
                                     ("outputs", output, trace.output_tokens))
        if int(drawn.max()) >= lengths.most
    ]  # fmt: skip
    return evolve(trace, name=", ".join([trace.name, *cut])) if cut else trace


def gamma_arrivals(
    rng: np.random.Generator, count: int, requests_per_s: float, burstiness: float = 1.0
) -> Array:
    """Arrival times with Gamma gaps of mean 1/rate and squared variation 1/burstiness.

    Burstiness 1 is a Poisson process; below 1 is burstier, above 1 more regular.
    """
    if not (np.isfinite(requests_per_s) and requests_per_s > 0):
        raise InvalidInput(f"A rate is a positive number of requests/s, not {requests_per_s}.")
    if not (np.isfinite(burstiness) and burstiness > 0):
        raise InvalidInput(f"Burstiness is a positive number, not {burstiness}.")
    gaps = rng.gamma(burstiness, 1.0 / (burstiness * requests_per_s), count)
    return np.cumsum(gaps)


def open_loop(
    *, requests: int, requests_per_s: float, prompt: Lengths, output: Lengths,
    burstiness: float = 1.0, diurnal: float = 0.0, period_s: float = 86400.0,
    shared_prefix: int = 0, prefixes: int = 1, seed: int = 0,
) -> Trace:  # fmt: skip
    """Independent requests.

    Parameters
    ----------
    diurnal : float
        Share, 0 to 1, by which the rate swings around its mean over one period.
    shared_prefix, prefixes : int
        Tokens at the start of each prompt that are one of `prefixes` system prompts.
    """
    if requests < 1:
        raise InvalidInput(f"A trace has at least 1 request, not {requests}.")
    if not 0.0 <= diurnal < 1.0:
        raise InvalidInput(f"The diurnal swing lies between 0 and 1, not {diurnal}.")
    if shared_prefix < 0:
        raise InvalidInput(f"Prompts share zero or more tokens, not {shared_prefix}.")
    rng = np.random.default_rng(seed)
    times = gamma_arrivals(rng, requests, requests_per_s, burstiness)
    if diurnal:
        # Arrivals of a unit-rate process, moved to where the integral of the rate reaches them.
        grid = np.linspace(0.0, times[-1] * 1.5 + period_s, 20_001)
        swing = period_s / (2 * np.pi) * (1.0 - np.cos(2 * np.pi * grid / period_s))
        times = np.interp(times, grid + diurnal * swing, grid)
    prompts = prompt.draw(rng, requests)
    extra: dict[str, object] = {}
    if shared_prefix:
        prompts = np.maximum(prompts, shared_prefix + 1)
        extra = _prefix_units(rng, prompts, shared_prefix, prefixes)
    return Trace(
        name=f"{requests_per_s:g} requests/s", arrival_s=times, prompt_tokens=prompts,
        output_tokens=output.draw(rng, requests), **extra,  # type: ignore[arg-type]
    )  # fmt: skip


def _prefix_units(
    rng: np.random.Generator, prompts: Array, shared: int, prefixes: int
) -> dict[str, object]:
    """Units of prompts that begin with one of a few common prefixes; the rest is their own."""
    common = shared // UNIT_TOKENS
    total = prompts // UNIT_TOKENS
    which = rng.integers(0, max(prefixes, 1), len(prompts))
    offsets = np.concatenate([[0], np.cumsum(total)])
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], total)
    owner = np.repeat(np.arange(len(prompts)), total)
    units = np.where(
        position < common, which[owner] * common + position,
        max(prefixes, 1) * common + np.arange(offsets[-1]),
    )  # fmt: skip
    units = np.unique(units, return_inverse=True)[1].astype(np.int64)
    return {"units": units, "unit_offsets": offsets, "unit_tokens": UNIT_TOKENS}


def with_lengths_of(made: Trace, like: Trace, seed: int = 0) -> Trace:
    """A generated trace with the lengths of another, each request's two lengths drawn together.

    Long prompts and short answers often go together: drawing the pair keeps that.
    """
    pick = np.random.default_rng(seed + 1).integers(0, len(like), len(made))
    return evolve(
        made, name=f"{made.name}, lengths of {like.name}", prompt_tokens=like.prompt_tokens[pick],
        output_tokens=like.output_tokens[pick],
    )  # fmt: skip


def closed_loop(
    *, clients: int, requests: int, prompt: Lengths, output: Lengths, think_s: float = 0.0,
    seed: int = 0,
) -> Trace:  # fmt: skip
    """`clients` clients, each sending its next request `think_s` after its last one ended."""
    if clients < 1 or requests < clients:
        raise InvalidInput(
            f"{clients} clients need at least one client and one request each, not {requests}."
        )
    _require_time(think_s)
    rng = np.random.default_rng(seed)
    index = np.arange(requests)
    arrival = np.where(index < clients, 0.0, np.inf)
    return Trace(
        name=f"{clients} clients", arrival_s=arrival, prompt_tokens=prompt.draw(rng, requests),
        output_tokens=output.draw(rng, requests), follows=np.where(index < clients, -1,
        index - clients), think_s=np.full(requests, think_s), user=index % clients,
    )  # fmt: skip


def _require_time(think_s: float) -> None:
    if not (np.isfinite(think_s) and think_s >= 0):
        raise InvalidInput(f"A client thinks for zero seconds or more, not {think_s}.")


def sessions(
    *, sessions: int, sessions_per_s: float, turns: int, prompt: Lengths, output: Lengths,
    think_s: float = 10.0, seed: int = 0,
) -> Trace:  # fmt: skip
    """Conversations: each turn's prompt is all that was said before and something new."""
    if sessions < 1 or turns < 1:
        raise InvalidInput("Conversations need at least one session of at least one turn.")
    _require_time(think_s)
    rng = np.random.default_rng(seed)
    starts = gamma_arrivals(rng, sessions, sessions_per_s)
    new = prompt.draw(rng, sessions * turns).reshape(turns, sessions)
    said = output.draw(rng, sessions * turns).reshape(turns, sessions)
    before = np.cumsum(new + said, axis=0) - new - said
    prompts = (before + new).ravel()
    units_each = prompts // UNIT_TOKENS
    offsets = np.concatenate([[0], np.cumsum(units_each)])
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], units_each)
    session = np.repeat(np.tile(np.arange(sessions), turns), units_each)
    longest = int(units_each.max()) + 1
    units = np.unique(session * longest + position, return_inverse=True)[1].astype(np.int64)
    index = np.arange(sessions * turns)
    wait = rng.exponential(think_s, sessions * turns) if think_s > 0 else np.zeros(sessions * turns)
    return Trace(
        name=f"{sessions} sessions of {turns} turns",
        arrival_s=np.where(index < sessions, np.concatenate([starts, np.zeros(
            sessions * (turns - 1))]), np.inf),
        prompt_tokens=prompts, output_tokens=said.ravel(), user=index % sessions,
        follows=np.where(index < sessions, -1, index - sessions), think_s=wait,
        units=units, unit_offsets=offsets, unit_tokens=UNIT_TOKENS,
    )  # fmt: skip
