"""Operators of one training pass: forward, gradient of the inputs, gradient of the weights.

Every product Y = X W of the forward pass has two in the backward pass, dX = dY W^T over the same
rows and dW = X^T dY summed over them; softmax attention recomputes its scores and then does four
products, 2.5 times the forward work (Dao 2023, FlashAttention-2, section 3.1); an elementwise
kernel reads its saved input as well as the gradient.
"""

from __future__ import annotations

from attrs import evolve, frozen

from ...models import ModelSpec
from ...plans import Plan
from .assemble import forward_operators
from .base import AttentionShape, Builder, GemmShape, MoeShape, Operator

ATTENTION_BACKWARD = 2.5
"""Products of attention's backward pass per product of its forward pass."""
UNFUSED_FORWARD_BYTES = (8.0, 5.0)
"""Bytes read and written per score by unfused softmax and dropout: scores and probabilities in
16 bits and a one-byte mask."""
UNFUSED_BACKWARD_BYTES = (11.0, 4.0)
LOSS_BYTES = 16.0
"""Bytes moved per logit by a cross entropy in fp32, forward and backward together."""
_SKIPPED = ("logits all-gather", "sampling")


@frozen(kw_only=True)
class TrainingOperators:
    """Operators of one micro-batch on one rank, through all layers.

    Attributes
    ----------
    forward, input_gradient, weight_gradient : tuple of Operator
    """

    forward: tuple[Operator, ...]
    input_gradient: tuple[Operator, ...]
    weight_gradient: tuple[Operator, ...]


def training_operators(
    model: ModelSpec, plan: Plan, *, unfused_attention: bool = False, sequence_tokens: int = 0
) -> TrainingOperators:
    """Operators of one training pass, collectives left out (their place depends on the network).

    Parameters
    ----------
    plan : Plan
        One rank's degrees; pipeline and context are 1 (layers and tokens are shared out by the
        caller, for whom the counts are linear).
    unfused_attention : bool
        Scores kept in memory, as before FlashAttention.
    sequence_tokens : int
        Width of the score matrix; only unfused attention needs it.

    Raises
    ------
    InvalidPlan
        If the plan does not divide the model.
    """
    forward = [
        op for op in forward_operators(model, plan)
        if op.kind not in ("collective", "decode", "mla_decode") and op.name not in _SKIPPED
        and "decode_tokens" not in op.flop
    ]  # fmt: skip
    if unfused_attention:
        forward = [o for op in forward for o in _unfused(op, model, plan, sequence_tokens)]
    if plan.formats.of("weights").bits <= 8:
        forward = [o for op in forward for o in (op, *_quantize(op, 1.0))]
    forward = [o for op in forward for o in _apart(op, plan)]
    backward: list[Operator] = []
    weights: list[Operator] = []
    for op in forward:
        inputs, gradient = _gradients(op)
        backward += inputs
        weights += gradient
    if plan.formats.of("weights").bits <= 8:
        backward += [o for op in forward for o in _quantize(op, 2.0)]
    if model.head and model.vocab:
        forward.append(_loss(model, plan))
    return TrainingOperators(
        forward=tuple(forward), input_gradient=tuple(backward), weight_gradient=tuple(weights)
    )


def _gradients(op: Operator) -> tuple[list[Operator], list[Operator]]:
    """Operators of the backward pass that one forward operator causes: inputs, weights."""
    shape = op.shape
    if op.kind == "gemm" and isinstance(shape, GemmShape):
        inputs = evolve(
            op, name=f"{op.name} (input gradient)", shape=evolve(shape, n=shape.k, k=shape.n),
            read=dict(op.written) | {"one": op.weight_bytes},
            written={k: v for k, v in op.read.items() if k != "one"},
        )  # fmt: skip
        if op.weight_bytes == 0:
            return [inputs, evolve(inputs, name=f"{op.name} (second input gradient)")], []
        weights = evolve(
            op, name=f"{op.name} (weight gradient)", shape=evolve(shape, over_rows=True),
            written={"one": 4.0 * shape.n * shape.k * shape.batch},
        )  # fmt: skip
        return [inputs], [weights]
    if op.kind == "moe":
        return (
            [evolve(op, name="routed experts (input gradient)")],
            [evolve(op, name="routed experts (weight gradient)")],
        )
    if isinstance(shape, AttentionShape):
        flop = {k: ATTENTION_BACKWARD * v for k, v in op.flop.items()}
        shape = evolve(shape, work=ATTENTION_BACKWARD)
        return [evolve(op, name=f"{op.name} backward", flop=flop, shape=shape)], []
    read = {k: v + op.written.get(k, 0.0) for k, v in op.read.items()}
    twice = {k: 2.0 * v for k, v in op.flop.items()}
    return [evolve(op, name=f"{op.name} backward", flop=twice, read=read, written=op.read)], []


def _unfused(op: Operator, model: ModelSpec, plan: Plan, width: int) -> list[Operator]:
    """Attention as two batched products around a softmax whose scores go through memory."""
    shape = op.shape
    if not isinstance(shape, AttentionShape):
        return [op]
    b = Builder(model=model, plan=plan)
    act = plan.formats.of("activations")
    heads, d, v = shape.heads, shape.head_dim, shape.v_head_dim or shape.head_dim
    for name, n, k in (("scores", width, d), ("values", v, width)):
        b.add(
            name=f"attention {name}", part="attention", kind="gemm", count=op.count,
            flop={"prefill_tokens": 2.0 * heads * n * k},
            read={"prefill_tokens": heads * k * act.bytes_per_value},
            written={"prefill_tokens": heads * n * act.bytes_per_value}, rate=act,
            weight_format=act, shape=GemmShape(rows={"prefill_tokens": heads}, n=n, k=k),
        )  # fmt: skip
    read, written = UNFUSED_FORWARD_BYTES
    b.add(
        name="attention softmax and dropout", part="attention", kind="stream", count=op.count,
        read={"prefill_tokens": read * heads * width},
        written={"prefill_tokens": written * heads * width},
    )  # fmt: skip
    return b.operators


def _apart(op: Operator, plan: Plan) -> list[Operator]:
    """Routed experts as their products and the kernels around them; any other operator as it is.

    Of every copy of a token that a rank computes: copies are sorted by expert before the first
    product and summed by token after the last; between them stands the activation. Engines that
    serve fuse all three into their products.
    """
    s = op.shape
    if not isinstance(s, MoeShape):
        return [op]
    each = s.experts_per_token * s.experts / s.experts_total
    copies = {k: v * each for k, v in s.rows.items()}
    act = plan.formats.of("activations").bytes_per_value
    before = (2 if s.gated else 1) * s.inner
    widths = {
        "permutation": (s.hidden, s.hidden),
        "activation": (before, s.inner),
        "sum": (s.hidden, s.hidden / s.experts_per_token),
    }
    products = evolve(op, written={k: v * act * (before + s.hidden) for k, v in copies.items()})
    return [products] + [
        evolve(op, name=f"{op.name} {name}", kind="stream", flop={}, weight_bytes=0.0, rate=None,
               weight_format=None, shape=None,
               read={k: v * act * read for k, v in copies.items()},
               written={k: v * act * written for k, v in copies.items()})
        for name, (read, written) in widths.items()
    ]  # fmt: skip


def _quantize(op: Operator, passes: float) -> list[Operator]:
    """Kernels that round a product's inputs to 8 or 4 bits, once by rows and once by columns."""
    shape = op.shape
    if op.kind not in ("gemm", "moe") or op.rate is None or op.rate.bits > 8:
        return []
    rows = {k: v for k, v in op.read.items() if k != "one" and not k.startswith("experts")}
    if passes > 1.0 and isinstance(shape, GemmShape):
        rows = dict(op.written)
    narrow = {k: v * op.rate.bytes_per_value for k, v in rows.items()}
    name = f"{op.name} quantize" + (" gradients" if passes > 1 else "")
    return [evolve(op, name=name, kind="stream", flop={}, read=rows, written=narrow,
                   weight_bytes=0.0, rate=None, weight_format=None, shape=None)]  # fmt: skip


def _loss(model: ModelSpec, plan: Plan) -> Operator:
    share = model.vocab / plan.tensor
    return Operator(
        name="cross entropy", part="head", kind="stream", count=1,
        read={"rows": LOSS_BYTES / 2 * share}, written={"rows": LOSS_BYTES / 2 * share},
    )  # fmt: skip
