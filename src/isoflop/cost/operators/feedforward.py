"""Feed-forward parts: plain, gated and mixture-of-experts."""

from __future__ import annotations

from ...models import FeedForward
from .base import Builder, MoeShape
from .mixers import _row_parallel_end


def add_feed_forward(b: Builder, ffn: FeedForward, count: float) -> None:
    """Append the operators of `count` layers' feed-forward part to the builder."""
    if ffn.kind == "none":
        return
    if ffn.kind == "moe":
        _moe(b, ffn, count)
        return
    _dense(b, ffn.inner, ffn.kind == "gated", count, "")
    _row_parallel_end(b, "feed-forward", count)


def _dense(b: Builder, inner: int, gated: bool, count: float, prefix: str) -> None:
    width, hidden = inner / b.plan.tensor, b.model.hidden
    up = 2 * width if gated else width
    name = "gate and up projection" if gated else "up projection"
    b.gemm(f"{prefix}{name}", "feed-forward", count, up, hidden)
    b.stream(f"{prefix}activation", "feed-forward", count, up, width)
    b.gemm(f"{prefix}down projection", "feed-forward", count, hidden, width)


def _moe(b: Builder, ffn: FeedForward, count: float) -> None:
    """Router, routed experts over all tokens of the expert group, shared experts, exchange.

    With attention data parallelism the expert group sees `data` times one rank's tokens.
    """
    hidden, plan = b.model.hidden, b.plan
    b.gemm("router", "feed-forward", count, ffn.experts, hidden, role="head")
    if ffn.latent:
        # Experts that work in a narrower space: tokens are projected before they travel.
        b.gemm("expert input projection", "feed-forward", count, ffn.latent, hidden)
    width = ffn.latent or hidden
    b.stream("top-k and permute", "feed-forward", count, ffn.experts + width, width)
    _exchange(b, ffn, count, "dispatch")
    _routed(b, ffn, count)
    _exchange(b, ffn, count, "combine")
    if ffn.latent:
        b.gemm("expert output projection", "feed-forward", count, hidden, ffn.latent)
    if ffn.shared_inner:
        _dense(b, ffn.shared_inner, ffn.expert_kind == "gated", count, "shared ")
    if plan.data == 1:
        _row_parallel_end(b, "feed-forward", count)


def _exchange(b: Builder, ffn: FeedForward, count: float, step: str) -> None:
    """Tokens travel to their experts and back only when ranks hold different tokens."""
    plan, hidden = b.plan, ffn.latent or b.model.hidden
    if plan.data == 1:
        return
    ranks = plan.tensor * plan.data
    if plan.expert > 1:
        # Each token's copies leave for at most `experts_per_token` ranks, once per rank.
        copies = min(ffn.experts_per_token, plan.expert)
        fmt = plan.formats.of("experts")
        # 8-bit activations travel as such; what comes back is summed in 16 bits (DeepSeek-V3, 3.2).
        narrow = step == "dispatch" and fmt.id.startswith("fp8")
        b.collective(
            f"expert {step}", count, "all_to_all", ranks, copies * hidden / plan.tensor,
            bytes_per_value=fmt.bytes_per_value if narrow else None, copies=copies,
        )  # fmt: skip
    else:
        pattern = "all_gather" if step == "dispatch" else "reduce_scatter"
        b.collective(f"expert {step}", count, pattern, ranks, plan.data * hidden)


def _routed(b: Builder, ffn: FeedForward, count: float) -> None:
    hidden, plan, act = ffn.latent or b.model.hidden, b.plan, b.activation_bytes
    fmt = plan.formats.of("experts")
    gated = ffn.expert_kind == "gated"
    inner = ffn.inner / plan.expert_tensor
    local = ffn.experts / plan.expert
    share = plan.data / plan.expert  # of one rank's tokens, seen by one rank's experts
    k, weights = ffn.experts_per_token, hidden * inner * (3 if gated else 2)
    per_expert = weights * fmt.bytes_per_value
    touched = f"experts:{ffn.experts}:{k}:{plan.data}"
    b.add(
        name="routed experts", part="feed-forward", kind="moe", count=count,
        flop={"tokens": 2.0 * weights * k * share},
        read={touched: per_expert / plan.expert,
              "tokens": k * share * (hidden + inner) * act},
        written={"tokens": k * share * (inner * (3 if gated else 1) + hidden) * act},
        weight_bytes=per_expert * local, rate=fmt, weight_format=fmt,
        shape=MoeShape(
            hidden=hidden, inner=round(inner), experts=local, experts_total=ffn.experts,
            experts_per_token=k, gated=gated, rows={"tokens": float(plan.data)},
        ),
    )  # fmt: skip
