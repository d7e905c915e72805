"""A model and a plan become the list of operators of one forward pass on one rank."""

from __future__ import annotations

from attrs import evolve

from ...models import LayerGroup, ModelSpec
from ...plans import Plan
from .base import AttentionShape, Builder, Coefficients, GemmShape, MoeShape, Operator
from .feedforward import add_feed_forward
from .mixers import add_mixer


def forward_operators(model: ModelSpec, plan: Plan) -> list[Operator]:
    """Operators of one forward pass, as one rank of the plan runs them.

    Counts cover all layers: with pipeline stages a token still passes through every layer, one
    stage after the other, so the pass of one micro-batch is the same sum plus the transfers
    between stages.

    Parameters
    ----------
    model : ModelSpec
    plan : Plan
        Checked against the model first.

    Raises
    ------
    InvalidPlan
        If the plan does not divide the model.
    """
    plan.check(model)
    b = Builder(model=model, plan=plan)
    _embedding(b)
    for group in model.layers:
        _layers(b, group)
    _head(b)
    if plan.pipeline > 1:
        b.collective("stage transfer", plan.pipeline - 1, "send_recv", 2,
                     model.hidden / plan.tensor)  # fmt: skip
    if plan.context > 1:
        b.operators = [_split_context(op, plan.context) for op in b.operators]
        _context_exchange(b)
    return b.operators


def _embedding(b: Builder) -> None:
    model = b.model
    width = model.hidden * b.format_of("head").bytes_per_value / b.activation_bytes
    if model.vision is not None:
        patch = model.vision.patch**2 * model.vision.channels
        b.gemm("patch embedding", "embedding", 1, model.hidden, patch)
    if model.vocab:
        b.stream("token embedding", "embedding", 1, width, model.hidden)
    if model.vocab and b.plan.tensor > 1:
        b.collective("embedding all-reduce", 1, "all_reduce", b.plan.tensor, model.hidden)


def _layers(b: Builder, group: LayerGroup) -> None:
    start = len(b.operators)
    hidden = b.model.hidden / (b.plan.tensor if b.plan.sequence_parallel else 1)
    # A fused residual-add and norm reads the branch and the residual and writes both.
    b.stream("residual and norm", "norms", group.count * group.norms, 2 * hidden, 2 * hidden,
             flop=8.0 * hidden)  # fmt: skip
    add_mixer(b, group.mixer, group.count)
    add_feed_forward(b, group.ffn, group.count)
    if group.parallel and group.ffn.kind != "moe":
        _merge_parallel_reductions(b, start)
    if group.ffn.capacity < 1.0:
        kept = b.operators[start:]
        b.operators[start:] = [_scale_tokens(op, group.ffn.capacity) for op in kept]


def _merge_parallel_reductions(b: Builder, start: int) -> None:
    """A parallel block sums both branches before one reduction (Wang and Komatsuzaki 2021)."""
    tail = [op for op in b.operators[start:] if not op.name.startswith("attention ")
            or op.kind != "collective"]  # fmt: skip
    b.operators[start:] = tail


def _head(b: Builder) -> None:
    model, tp = b.model, b.plan.tensor
    if model.final_norm:
        b.stream("final norm", "norms", 1, model.hidden, model.hidden, rows="rows")
    if not (model.head and model.vocab):
        return
    vocab = -(-model.vocab // tp)
    b.gemm("output head", "head", 1, vocab, model.hidden, rows="rows", role="head")
    b.collective("logits all-gather", 1, "all_gather", tp, model.vocab, rows="rows")
    if model.kind == "decoder":
        b.stream("sampling", "head", 1, 2 * model.vocab, 2, rows="rows")


def _map(row: Coefficients, scale: dict[str, float]) -> Coefficients:
    """Multiply coefficients by the factor of their feature family, `tokens` split in two."""
    out: dict[str, float] = {}
    for name, value in row.items():
        head = name.partition(":")[0]
        if head == "tokens" and scale.get("decode_tokens") != scale.get("prefill_tokens"):
            for part in ("decode_tokens", "prefill_tokens"):
                out[part] = out.get(part, 0.0) + value * scale.get(part, 1.0)
        else:
            key = "prefill_tokens" if head == "tokens" else head
            out[name] = out.get(name, 0.0) + value * scale.get(key, 1.0)
    return out


def _rescale(op: Operator, scale: dict[str, float], share: float) -> Operator:
    shape = op.shape
    if isinstance(shape, (GemmShape, MoeShape)):
        shape = evolve(shape, rows=_map(shape.rows, scale))
    elif isinstance(shape, AttentionShape):
        shape = evolve(shape, token_share=shape.token_share * share)
    return evolve(
        op, shape=shape, flop=_map(op.flop, scale), read=_map(op.read, scale),
        written=_map(op.written, scale), sent=_map(op.sent, scale),
    )  # fmt: skip


def _scale_tokens(op: Operator, capacity: float) -> Operator:
    """Mixture of depths: `capacity` of the tokens enter the block (Raposo et al. 2024)."""
    linear = ("decode_tokens", "prefill_tokens", "kv_decode", "kv_prefill", "experts")
    scale: dict[str, float] = dict.fromkeys(linear, capacity)
    scale |= dict.fromkeys(("pairs_decode", "pairs_prefill", "pairs_full"), capacity**2)
    return _rescale(op, scale, capacity)


def _split_context(op: Operator, ranks: int) -> Operator:
    """Context parallelism: prompts and caches are split over ranks, decoding tokens are not."""
    share = 1.0 / ranks
    names = ("prefill_tokens", "kv_decode", "pairs_decode", "pairs_prefill", "pairs_full")
    return _rescale(op, dict.fromkeys(names, share), share)


def _context_exchange(b: Builder) -> None:
    """Ring attention: each rank's keys and values visit all others (Liu et al. 2023)."""
    for group in b.model.layers:
        m = group.mixer
        if m.kind == "mla":
            width = m.kv_rank + m.rope_dim
        elif m.kind == "attention":
            width = b.plan.kv_heads_per_rank(m.kv_heads) * (
                m.head_dim + (m.v_head_dim or m.head_dim)
            )
        else:
            continue
        b.collective("context ring", group.count, "all_gather", b.plan.context, width,
                     rows="prefill_tokens", bytes_per_value=b.kv_bytes)  # fmt: skip
