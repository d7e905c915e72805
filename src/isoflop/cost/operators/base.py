"""The operator record and the context that operator builders share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

from attrs import define, field, frozen

from ...formats import NumberFormat
from ...models import ModelSpec
from ...plans import Plan

Coefficients = Mapping[str, float]
"""Feature name -> coefficient; the value of a row is the sum over features."""

Kind = Literal["gemm", "prefill", "decode", "mla_prefill", "mla_decode", "moe", "stream", "scan",
               "collective"]  # fmt: skip
Part = Literal["attention", "feed-forward", "norms", "embedding", "head", "network"]


@frozen(kw_only=True)
class GemmShape:
    """A product of (rows x k) by (k x n); `rows` is linear in batch features.

    `batch` products of that shape run as one kernel. With `over_rows` the product sums over the
    rows instead, (n x rows) by (rows x k): the weight gradient.
    """

    rows: Coefficients
    n: int
    k: int
    batch: int = 1
    over_rows: bool = False


@frozen(kw_only=True)
class AttentionShape:
    """Heads of one rank. For MLA, head_dim is the score width and v_head_dim the value width."""

    heads: float
    kv_heads: float
    head_dim: int
    v_head_dim: int
    window: int = 0
    causal: bool = True
    work: float = 1.0
    """Products per product of the forward pass (2.5 in its backward, FlashAttention section 3)."""
    token_share: float = 1.0
    """Share of the tokens this layer sees (mixture of depths) or this rank holds (context)."""
    selected: int = 0
    """Tokens that each query reads, as an indexer chose them; 0 for all it may see."""


@frozen(kw_only=True)
class IndexShape(AttentionShape):
    """An indexer: `heads` of width `head_dim` against one shared key per token, no values.

    `selected` of the scored tokens are then chosen.
    """


@frozen(kw_only=True)
class MoeShape:
    """Routed experts of one rank: `experts` of `experts_total` are local, `inner` wide."""

    hidden: int
    inner: int
    experts: float
    experts_total: int
    experts_per_token: int
    gated: bool
    rows: Coefficients


@frozen(kw_only=True)
class CollectiveShape:
    """A collective among `ranks` ranks; its payload is the operator's `sent` row.

    `copies` is how many ranks each token of an expert exchange goes to; 0 for other collectives.
    """

    pattern: Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"]
    ranks: int
    copies: float = 0.0


Shape = GemmShape | AttentionShape | MoeShape | CollectiveShape | None


@frozen(kw_only=True)
class Operator:
    """One kind of kernel in a step.

    Attributes
    ----------
    name : str
        The field's usual name, e.g. "qkv projection".
    part : str
        Which part of the model it belongs to.
    kind : str
        Which efficiency model times it.
    count : float
        Times it runs per step on one rank's full pass through all layers.
    flop, read, written, sent : mapping
        Per run, per rank: FLOP, bytes read and written in device memory, bytes of collective
        payload, as coefficients of batch features.
    weight_bytes : float
        Bytes of `read` that are weights (resident, the same every step).
    rate : NumberFormat
        Operand format that decides the matrix rate; None runs on vector units.
    """

    name: str
    part: Part
    kind: Kind
    count: float
    flop: Coefficients = field(factory=dict)
    read: Coefficients = field(factory=dict)
    written: Coefficients = field(factory=dict)
    sent: Coefficients = field(factory=dict)
    weight_bytes: float = 0.0
    rate: NumberFormat | None = None
    weight_format: NumberFormat | None = None
    shape: Shape = None


@define(kw_only=True, slots=False)
class Builder:
    """Collects the operators of one rank of a plan.

    Byte widths are resolved once here so that the builders of mixers and feed-forward parts read
    like the formulas they implement.
    """

    model: ModelSpec
    plan: Plan
    operators: list[Operator] = field(factory=list)

    @cached_property
    def activation_bytes(self) -> float:
        """Bytes per activation value."""
        return self.format_of("activations").bytes_per_value

    @cached_property
    def kv_bytes(self) -> float:
        """Bytes per cached value."""
        return self.format_of("kv").bytes_per_value

    _formats: dict[str, NumberFormat] = field(factory=dict, init=False)

    def format_of(
        self, role: Literal["weights", "experts", "head", "activations", "kv"]
    ) -> NumberFormat:
        """The plan's format of a role, looked up once."""
        if role not in self._formats:
            self._formats[role] = self.plan.formats.of(role)
        return self._formats[role]

    def add(self, **fields: object) -> None:
        """Append an operator, dropping zero coefficients and empty runs."""
        for row in ("flop", "read", "written", "sent"):
            if row in fields:
                fields[row] = {k: v for k, v in fields[row].items() if v}  # type: ignore[union-attr]
        operator = Operator(**fields)  # type: ignore[arg-type]
        if operator.count > 0:
            self.operators.append(operator)

    def gemm(
        self,
        name: str,
        part: Part,
        count: float,
        n: float,
        k: float,
        *,
        rows: str = "tokens",
        role: Literal["weights", "experts", "head"] = "weights",
        batch: int = 1,
    ) -> None:
        """A weight GEMM: 2 n k FLOP per row; weights, inputs and outputs move once."""
        n, k = round(n), round(k)
        if n < 1 or k < 1:
            return
        fmt = self.format_of(role)
        act = self.activation_bytes
        weight_bytes = n * k * batch * fmt.bytes_per_value
        self.add(
            name=name, part=part, kind="gemm", count=count,
            flop={rows: 2.0 * n * k * batch},
            read={"one": weight_bytes, rows: k * batch * act},
            written={rows: n * batch * act},
            weight_bytes=weight_bytes, rate=fmt, weight_format=fmt,
            shape=GemmShape(rows={rows: 1.0}, n=n, k=k, batch=batch),
        )  # fmt: skip

    def stream(
        self, name: str, part: Part, count: float, read: float, written: float, *,
        rows: str = "tokens", flop: float = 0.0,
    ) -> None:  # fmt: skip
        """An elementwise kernel: `read` and `written` values per row, at activation width."""
        act = self.activation_bytes
        self.add(
            name=name, part=part, kind="stream", count=count,
            flop={rows: flop}, read={rows: read * act}, written={rows: written * act},
        )  # fmt: skip

    def collective(
        self, name: str, count: float, pattern: str, ranks: int, values: float, *,
        rows: str = "tokens", bytes_per_value: float | None = None, copies: float = 0.0,
    ) -> None:  # fmt: skip
        """A collective over `ranks`; payload is `values` per row of the full tensor."""
        if ranks < 2 or count <= 0:
            return
        width = self.activation_bytes if bytes_per_value is None else bytes_per_value
        self.add(
            name=name, part="network", kind="collective", count=count,
            sent={rows: values * width},
            shape=CollectiveShape(pattern=pattern, ranks=ranks, copies=copies),  # type: ignore[arg-type]
        )  # fmt: skip
