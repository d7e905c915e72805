"""Steady state of a serving engine in closed form: no events, one fixed point.

With C clients in a closed loop, each sending its next request when the last one ends, an engine
with continuous batching settles at a decoding batch B. A decoding request advances once per step,
and while it decodes the prompts of the other requests take their share of the device, either as
chunks inside its steps or as steps of their own; either way the prefill time is stolen from it.
With X requests per second, t_d(B) seconds per pure decoding step and t_p seconds of prefill work
per request,

    TPOT = t_d(B) / (1 - X t_p)          a decoding request owns the rest of each second
    life = TTFT + (output - 1) TPOT,  X = C / life,  B = X (output - 1) TPOT

which three lines of fixed-point iteration solve for arrays of scenarios at once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from attrs import frozen
from numpy.typing import ArrayLike

from ..cost.features import Array
from ..errors import InvalidInput

StepTime = Callable[[Array, Array], Array]
"""Seconds of a decoding step from (sequences, mean context)."""
PrefillTime = Callable[[Array, Array], Array]
"""Seconds of one prefill step from (prompts in it, tokens per prompt)."""

ITERATIONS = 200
TOLERANCE = 1e-7


@frozen(kw_only=True, eq=False)
class SteadyState:
    """Steady state of one scenario, or an array of them.

    Attributes
    ----------
    tpot_s, ttft_s : array
        Mean time per output token after the first, and mean time to the first.
    batch : array
        Mean number of decoding sequences.
    requests_per_s, output_tokens_per_s : array
    prefill_share : array
        Share of device time spent on prompts.
    """

    tpot_s: Array
    ttft_s: Array
    batch: Array
    requests_per_s: Array
    output_tokens_per_s: Array
    prefill_share: Array


@frozen(kw_only=True, eq=False)
class ClosedRun:
    """A closed-loop benchmark of finite length, whose clients start together.

    All clients send their first prompt at once, so the first round is a burst. Output lengths
    uniform between `shortest` times the longest and the longest then spread the clients: after k
    rounds they end within sqrt(k) times the spread of one output.

    Attributes
    ----------
    rounds : array
        Requests per client; 0 where it is not known.
    shortest : array
        Shortest output over the longest; 1 for equal lengths.
    """

    rounds: Array
    shortest: Array

    @property
    def known(self) -> Array:
        """Where the queue follows from the run itself: lengths that differ, a known end."""
        return (self.rounds > 0) & (self.shortest < 1.0)

    def queue(self, clients: Array, together: Array, decoding: Array) -> Array:
        """Mean number of others' prompts that a prompt waits for, over all rounds.

        Requests end, and the next ones arrive, only as steps advance all of them by a token, so
        the queue lives in steps and not in seconds, however long a step's prompts make it. The
        round after the k-th spread has C prompts over sqrt(k) times the spread of one output,
        plus the C / t steps by which the first burst set the clients apart, t prompts fitting in
        one step. Those of one step wait for each other; a share r of the steps above one makes a
        fluid queue, one below that of M/D/1.
        """
        count = int(np.max(self.rounds, initial=1))
        k = np.arange(1, count, dtype=float).reshape((-1,) + (1,) * np.ndim(clients))
        spread = 2.0 * (1.0 - self.shortest) / (1.0 + self.shortest) * decoding
        window = np.clip(np.sqrt(k) * spread + clients / together, 1.0, np.maximum(decoding, 1.0))
        arrivals = clients / window
        r = arrivals / together
        fluid = (clients - 1.0) / 2.0 * np.maximum(1.0 - 1.0 / np.maximum(r, 1e-12), 0.0)
        below = np.minimum(r, 0.9)
        waiting = fluid + np.minimum(arrivals, together) / 2.0
        waiting = waiting + together * below / (2.0 * (1.0 - below))
        later = np.sum(np.minimum(waiting, (clients - 1.0) / 2.0) * (k < self.rounds), axis=0)
        return ((clients - 1.0) / 2.0 + later) / np.maximum(self.rounds, 1.0)


def mean_context(prompt: ArrayLike, output: ArrayLike, output_cv: ArrayLike = 0.0) -> Array:
    """Tokens in the cache of a request found running, prompt and output being means.

    A request of output n is found running in proportion to n and is then n/2 tokens in, hence
    E[n^2] / (2 E[n]) = E[n] (1 + cv^2) / 2.
    """
    cv = np.asarray(output_cv, float)
    return np.asarray(prompt, float) + np.asarray(output, float) * (1.0 + cv * cv) / 2.0


def closed_loop(
    decode_s: StepTime,
    prefill_s: PrefillTime,
    *,
    clients: ArrayLike,
    prompt_tokens: ArrayLike,
    output_tokens: ArrayLike,
    chunk_tokens: ArrayLike = 8192.0,
    interference: float = 1.0,
    arrival_s: ArrayLike = 0.0,
    stages: float = 1.0,
    burst: float = 0.0,
    output_cv: ArrayLike = 0.0,
    prompt_floor_s: float = 0.0,
    mixed: ArrayLike = False,
    lag_steps: ArrayLike = 0.0,
    tokens_per_step: ArrayLike = 1.0,
    run: ClosedRun | None = None,
) -> SteadyState:
    """Steady state of `clients` closed-loop clients.

    Parameters
    ----------
    decode_s, prefill_s : callable
        Step times; see `StepTime` and `PrefillTime`.
    clients, prompt_tokens, output_tokens : array
        Broadcast against each other.
    chunk_tokens : array
        Prompt tokens one step can hold, so how many prompts share a prefill step.
    interference : float
        Share of other requests' prefill time that stalls a decoding one.
    arrival_s : array
        Time outside steps before the first token.
    stages : float
        Pipeline stages, which work on as many prompts at once: each prompt holds the device for
        its time over this.
    burst : float
        Share of the other clients whose prompts arrive together with one's own: 0 for independent
        arrivals, 1 for a load generator that starts all clients at once.
    output_cv : array
        Standard deviation of the output lengths over their mean. Long requests stay longer, so the
        context of the requests that run at once grows by (1 + cv^2) / 2 of the mean output, not
        by half of it (length-biased sampling).
    prompt_floor_s : float
        Least time of a step that holds prompts: what the host needs to launch it where such steps
        are not captured as graphs.
    mixed : bool array
        Whether prompts share their step with decoding sequences (chunked prefill), whose own time
        then hides part of that floor.
    lag_steps : array
        Decoding steps that end between a prompt's arrival and its first token besides its own:
        the one that runs when it arrives, and those for which the scheduler does not look.
    tokens_per_step : array
        Tokens a decoding sequence gains per step, above one where drafts are verified.
    run : ClosedRun or None
        What the load generator did, where it is known; None or a run of equal lengths takes
        `burst` for the share of prompts that arrive together.

    Raises
    ------
    InvalidInput
        If clients or lengths are below one or not finite.
    """
    c, p, n = np.broadcast_arrays(
        np.asarray(clients, float), np.asarray(prompt_tokens, float),
        np.asarray(output_tokens, float),
    )  # fmt: skip
    for value, what in ((c, "number of clients"), (p, "prompt length"), (n, "output length")):
        if not np.all(np.isfinite(value)) or np.any(value < 1):
            raise InvalidInput(f"The {what} must be a finite number of at least 1.")
    context = mean_context(p, n, output_cv)
    together = np.clip(np.floor(np.asarray(chunk_tokens, float) / p), 1.0, c)
    alone = prefill_s(np.ones_like(p), p)
    device_each = prefill_s(together, p) / (together * stages)  # seconds a request holds a stage
    each = device_each
    decoding = np.maximum(n - 1.0, 0.0)
    lag, outside = np.asarray(lag_steps, float), np.asarray(arrival_s, float)
    gained = np.asarray(tokens_per_step, float)
    ahead = 0.0 if run is None else run.queue(c, together, decoding / gained)
    batch, tpot, ttft = c.copy(), decode_s(c, context) / gained, alone + outside
    for _ in range(ITERATIONS):
        rate = c / (ttft + decoding * tpot)
        step_s = decode_s(batch, context)
        if prompt_floor_s:
            each = np.maximum(
                device_each, _launch_share(prompt_floor_s, rate * tpot * gained, step_s, mixed)
            )
        # Only prompts of *other* requests interrupt a decoding one.
        new_tpot = _shared_s(step_s / gained, interference * (c - 1.0) * each, ttft, decoding)
        queue = 0.5 * np.minimum(rate * each, 0.98) * each * together
        queue = queue + burst * (c - 1.0) / 2.0 * each
        if run is not None:
            queue = np.where(run.known, ahead * each, queue)
        ttft = outside + alone + lag * step_s + queue
        new_batch = np.clip(rate * decoding * tpot, np.minimum(1.0, c), c)
        change = np.max(np.abs(new_tpot / tpot - 1.0), initial=0.0)
        tpot, batch = 0.5 * (tpot + new_tpot), 0.5 * (batch + new_batch)
        if change < TOLERANCE:
            break
    life = ttft + decoding * tpot
    rate = c / life
    return SteadyState(
        tpot_s=tpot, ttft_s=ttft, batch=batch, requests_per_s=rate,
        output_tokens_per_s=rate * n, prefill_share=np.minimum(rate * each, 1.0),
    )  # fmt: skip


def _shared_s(step_s: Array, prompts_s: Array, ttft_s: Array, decoding: Array) -> Array:
    """Seconds per token x of a request that yields the device to others' prompts.

    `prompts_s` seconds of prompts arrive in one life, ttft + n x, so x = t + x prompts / life: a
    quadratic with one positive root. Iterating x = t / (1 - prompts / life) instead diverges where
    prompts take nearly all of the device.
    """
    n = np.maximum(decoding, 1e-9)
    half = (n * step_s + prompts_s - ttft_s) / (2.0 * n)
    return half + np.sqrt(half * half + step_s * ttft_s / n)


def _launch_share(floor_s: float, arrivals: Array, step_s: Array, mixed: ArrayLike) -> Array:
    """Launch-bound seconds per request of steps that hold prompts.

    `arrivals` requests arrive per decoding step; a step that holds any holds
    arrivals / (1 - exp(-arrivals)) of them, and they share its launches.
    """
    in_step = arrivals / -np.expm1(-np.maximum(arrivals, 1e-9))
    hidden = np.where(np.asarray(mixed, bool), step_s, 0.0)
    return np.maximum(floor_s - hidden, 0.0) / np.maximum(in_step, 1.0)


def static_batch(
    decode_s: StepTime,
    prefill_s: PrefillTime,
    *,
    batch: ArrayLike,
    prompt_tokens: ArrayLike,
    output_tokens: ArrayLike,
) -> SteadyState:
    """A batch that starts together, runs all its output steps and ends together."""
    b, p, n = np.broadcast_arrays(
        np.asarray(batch, float), np.asarray(prompt_tokens, float), np.asarray(output_tokens, float)
    )
    first = prefill_s(b, p)
    # Step time is close to linear in context, so the mean step sits at the mean context.
    tpot = decode_s(b, p + n / 2.0)
    total = first + np.maximum(n - 1.0, 0.0) * tpot
    return SteadyState(
        tpot_s=tpot, ttft_s=first, batch=b, requests_per_s=b / total,
        output_tokens_per_s=b * n / total, prefill_share=first / total,
    )  # fmt: skip
