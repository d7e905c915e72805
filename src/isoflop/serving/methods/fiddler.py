"""Fiddler: experts that are not on the device are sent to it or computed by the host."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np

from ...cost.features import Array, Batch
from ...cost.step import StepModel
from ..method import Method, MethodReport
from ..offload import HostExperts, routed
from ..streams import Streams

TOKENS = (1, 4, 16, 64, 256, 1024, 4096)
MOST_SEQUENCES = 16
"""Up to so many tokens of a step are sequences that decode; more are one prompt."""


@final
class Fiddler(Method):
    """A step with experts in host memory, simulated expert by expert.

    Up to 16 tokens are sequences that decode, more are one prompt. They are routed at random; the
    device holds as many experts as fit, evenly over layers. Streams work in order: the device, the
    host's cores, and copies of weights and of activations. Of each layer the other work runs
    first; then resident experts run on the device, an expert that is sent is copied and runs
    there, one left on the host waits for the activations, is computed by the cores and its result
    copied back; the next layer waits for all. `all_sent_s` and `all_on_host_s` are the extremes.
    `fiddler_s` takes for each expert the cheaper of the two, as its token count says;
    `balanced_s` fills host and link so that both end together, largest first. `bound_s` is what no
    split can beat in this order: the other work, then the longer of the device's own experts and
    host x link / (host + link). `streamed_s` sends every expert whether wanted or not. Placing
    popular experts first, which gained 3 to 4 points of hits where it was measured, is left out.

    Checked: 53 and 119 experts fit on 24 and 48 GB where 56 and 125 of 256 are published;
    DeepSpeed-MII streams a token of Mixtral 8x7B in 4.8 s on an RTX A6000 (predicted 4.6) and 3.8
    on an RTX 6000 Ada (4.6: its link is faster); over 3 tokens/s on 24 GB are reached from 55 GB/s
    of host bandwidth, where the authors' own 7 ms per expert mean 50, and are 14 times what
    streaming gives, of which the paper says an order of magnitude.

    References
    ----------
    Kamahori et al. 2024, Fiddler, arXiv 2402.07033.
    """

    title: ClassVar[str] = "experts in host memory, sent to the device or computed by the host"
    reference: ClassVar[str] = "Fiddler, arXiv 2402.07033"
    example: ClassVar[str] = "mixtral-8x7b --on rtx-6000-ada"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "host_bandwidth": (1.2e11, "bytes/s of weights that host kernels read"),
        "host_flop": (2.0e12, "FLOP/s that host kernels reach in the weights' format"),
        "link": (0.0, "reached bytes/s of the host link; 0: 61% of the catalog's"),
        "context": (512.0, "mean cached tokens of a sequence"),
    }

    def run(self, step: StepModel, settings: dict[str, float]) -> MethodReport:
        place = HostExperts.of(
            step, link_bytes_per_s=settings["link"], host_bytes_per_s=settings["host_bandwidth"],
            host_flop_per_s=settings["host_flop"],
        )  # fmt: skip
        records = [_row(place, tokens, settings["context"]) for tokens in TOKENS]
        turn = next((r["tokens"] for r in records if r["all_sent_s"] < r["all_on_host_s"]), None)
        share = place.resident / (place.layers * place.experts)
        text = (
            f"The device holds {place.resident} of {place.layers * place.experts} experts "
            f"({share:.0%} of {place.all_bytes / 2**30:.0f} GiB). One sequence decodes at "
            f"{records[0]['tokens_per_s']:.2f} tokens/s, "
            f"{records[0]['streamed_s'] / records[0]['fiddler_s']:.0f} times as fast as where "
            "every expert is streamed. "
            + (f"From {turn:,} tokens per step on, sending experts beats computing them on the "
               "host." if turn else "Computing on the host wins at every size here.")
        )  # fmt: skip
        return MethodReport(
            title=f"{step.model.name} with experts in host memory",
            columns=("tokens", "streamed_s", "all_sent_s", "all_on_host_s", "fiddler_s",
                     "balanced_s", "bound_s", "sent", "tokens_per_s"),
            records=records, conclusion=text,
        )  # fmt: skip


def _row(place: HostExperts, tokens: int, context: float) -> dict[str, float]:
    """One step of `tokens` sequences under every strategy."""
    if tokens <= MOST_SEQUENCES:
        batch = Batch(decode_sequences=np.array(float(tokens)), decode_context=np.array(context))
    else:
        batch = Batch(prefill_sequences=1.0, prefill_tokens=np.array(float(tokens)))
    other = float(place.other_s(batch))
    rng = np.random.default_rng(0)
    drawn = [routed(tokens, place.experts, place.per_token, rng) for _ in range(place.layers)]
    held = _held(place, rng)
    found: dict[str, float] = {}
    sent = 0
    bound = 0.0
    for name in ("all_sent", "all_on_host", "fiddler", "balanced"):
        streams, waits = Streams(), []
        for layer, (counts, mine) in enumerate(zip(drawn, held)):
            each = place.device_s(counts)
            away = (counts > 0) & ~mine
            there = away & _on_host(place, counts, away, each, name)
            if name == "fiddler":
                sent += int((away & ~there).sum())
            if name == "balanced":
                bound += _layer_bound_s(place, counts, away, each, other)
            waits = _layer(streams, place, waits, layer, other, counts, each, mine, there)
        found[f"{name}_s"] = float(streams.total_s)
    streamed = place.layers * place.experts * place.send_s
    return {
        "tokens": tokens, **found, "streamed_s": streamed, "bound_s": bound,
        "sent": sent / max(1, sum(int(((c > 0) & ~h).sum()) for c, h in zip(drawn, held))),
        "tokens_per_s": tokens / found["fiddler_s"],
    }  # fmt: skip


def _held(place: HostExperts, rng: np.random.Generator) -> list[Array]:
    """Which experts of each layer are on the device."""
    base, more = divmod(place.resident, place.layers)
    held = []
    for layer in range(place.layers):
        mine = np.zeros(place.experts, bool)
        mine[rng.permutation(place.experts)[: base + (layer < more)]] = True
        held.append(mine)
    return held


def _on_host(place: HostExperts, counts: Array, away: Array, each: Array, strategy: str) -> Array:
    """Which of the experts that are `away` the host computes."""
    host = place.host_s(counts)
    device = place.send_s + each
    if strategy == "all_sent":
        return np.zeros(len(counts), bool)
    if strategy == "all_on_host":
        return away
    if strategy == "fiddler":
        return host < device
    chosen = np.zeros(len(counts), bool)
    busy_host = busy_link = 0.0
    for e in np.argsort(-np.where(away, host, -1.0), kind="stable")[: int(away.sum())]:
        if busy_host + host[e] <= busy_link + place.send_s:
            chosen[e] = True
            busy_host += host[e]
        else:
            busy_link += place.send_s
    return chosen


def _layer_bound_s(
    place: HostExperts, counts: Array, away: Array, each: Array, other: float
) -> float:
    """Least seconds of a layer: work away divides between host and link without remainder."""
    host, link = float(place.host_s(counts[away]).sum()), place.send_s * int(away.sum())
    both = host * link / (host + link) if host + link > 0 else 0.0
    # What runs on the device at least are the experts that live there.
    return other + max(both, float(each[~away].sum()))


def _layer(
    streams: Streams, place: HostExperts, waits: list[int], layer: int, other: float,
    counts: Array, each: Array, mine: Array, there: Array,
) -> list[int]:  # fmt: skip
    """Issue one layer; the tasks the next one waits for."""
    first = streams.add("device", f"attention and router {layer}", other, waits)
    ends = [first]
    order = np.nonzero(counts > 0)[0]
    for e in order[there[order]]:
        down = streams.add("to host", f"activations {layer}.{e}",
                           place.activation_s(counts[e]), [first])  # fmt: skip
        done = streams.add("host", f"expert {layer}.{e}", place.host_s(counts[e]), [down])
        ends.append(streams.add("to device", f"result {layer}.{e}",
                                place.activation_s(counts[e]), [done]))  # fmt: skip
    ends += [streams.add("device", f"expert {layer}.{e}", each[e], [first])
             for e in order[mine[order]]]  # fmt: skip
    for e in order[~mine[order] & ~there[order]]:
        copied = streams.add("weights", f"weights {layer}.{e}", place.send_s, [first])
        ends.append(streams.add("device", f"expert {layer}.{e}", each[e], [copied]))
    return ends


METHOD = Fiddler()
