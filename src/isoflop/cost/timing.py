"""Seconds of every operator on a device: the matrix's rows through the efficiency models.

`KernelTimer` binds one device, and the links that join its ranks, to the calibrated kernel models
and turns an operator and a batch into seconds of one launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from attrs import define, evolve, field

from ..formats import NumberFormat
from ..hardware import Accelerator, Cluster, load_accelerator
from ..plans import Plan
from ..provenance import Label
from .collectives import (
    CollectiveParameters,
    collective_time_s,
    exchange_time_s,
    hierarchical_time_s,
    over_host,
    tier_for,
)  # fmt: skip
from .features import Array, Batch
from .kernels import DeviceShape
from .kernels.attention import LAUNCH_S, PrefillParameters, decode_time_s, prefill_time_s
from .kernels.calibration import KernelCalibration, load_kernels
from .kernels.gemm import GemmParameters, gemm_time_s
from .kernels.moe import MoeParameters, moe_time_s
from .kernels.sparse import SparseParameters
from .kernels.stream import StreamParameters, stream_time_s
from .operators.base import (
    AttentionShape,
    Coefficients,
    CollectiveShape,
    GemmShape,
    MoeShape,
    Operator,
)
from .shared import Shared
from .sparse import is_sparse, sparse_time_s
from .sustained import JOULES_PER_FLOP, clock_gain, sustained_share

P = TypeVar("P", GemmParameters, MoeParameters)

UNMEASURED_SIGMA = {
    "gemm": 0.2, "prefill": 0.3, "decode": 0.3, "mla_prefill": 0.3, "mla_decode": 0.3, "moe": 0.35,
    "stream": 0.35, "scan": 0.5, "collective": 0.4, "sparse": 0.35,
}  # fmt: skip
"""Spread of log(measured / predicted) per kind for a device whose family was never measured:
what the models show when a family is predicted from another one's parameters."""

CACHE_BYTES_PER_CLOCK = 24.0
"""Bytes per clock and unit from the last-level cache: about 5.5 TB/s on an H100, as published
microbenchmarks have it, not fitted."""

_SCORE = {"mla_prefill": "prefill", "stream": "gemm.bf16", "scan": "gemm.bf16"}


@define(kw_only=True, slots=False, eq=False)
class KernelTimer:
    """Kernel times on one device.

    Attributes
    ----------
    device : Accelerator
    plan : Plan
    cluster : Cluster or None
        Network tiers; None uses the device's own links.
    captured : bool
        Whether the engine replays captured graphs and brings its own all-reduce.
    padded_experts : bool
        Whether 8-bit experts are laid out one tile of rows each; see `_padded_s`.
    clock : float or None
        Share of its highest clock that the device holds all along, because its board's power is
        spent; None: a short run or a light load, in which only long kernels slow down, as they
        did in the benchmarks behind the fit. See `power.settled_clock`.
    shared : Shared or None
        Seconds of kernels that other plans on this device have too.
    """

    device: Accelerator
    plan: Plan
    cluster: Cluster | None = None
    captured: bool = True
    padded_experts: bool = False
    clock: float | None = None
    stream: StreamParameters = field(factory=StreamParameters)
    sparse: SparseParameters = field(factory=SparseParameters)
    shared: Shared | None = None
    _rates: dict[str, tuple[float, str]] = field(factory=dict, init=False, repr=False)

    @cached_property
    def _loaded(self) -> tuple[KernelCalibration, bool]:
        return load_kernels(self.device.family)

    @property
    def calibration(self) -> KernelCalibration:
        """Fitted parameters in use."""
        return self._loaded[0]

    @property
    def own_family(self) -> bool:
        """Whether kernels of the device's family were measured at all."""
        return self._loaded[1]

    @cached_property
    def shape(self) -> DeviceShape:
        """The device as kernels see it."""
        shape = DeviceShape.of(self.device)
        return evolve(
            shape, clock_hz=shape.clock_hz * (self.clock or 1.0),
            bf16_flop_per_s=shape.bf16_flop_per_s * self.headroom,
            bandwidth_bytes_per_s=shape.bandwidth_bytes_per_s * self._streaming,
        )  # fmt: skip

    @cached_property
    def headroom(self) -> float:
        """Sustained share of the dense rate, over that of the device its family was fitted on.

        Dense products run into the board's power limit; see `sustained_share`. The fitted
        parameters hold this for their own device. At a given clock, which says what power allows,
        only the highest clocks of the two are compared.
        """
        held = 1.0 if self.clock is None else self.clock
        joules = JOULES_PER_FLOP.get(self.device.family)
        if joules is None or self.label() == "interpolated" or not self.calibration.devices:
            return held
        fitted = load_accelerator(self.calibration.devices[0])
        if fitted.family != self.device.family:
            return held
        if self.clock is not None:
            return held * clock_gain(self.device) / clock_gain(fitted)
        return sustained_share(self.device, joules) / sustained_share(fitted, joules)

    @cached_property
    def _burst(self) -> KernelTimer:
        """The same device in a short run."""
        return evolve(self, clock=None)

    @cached_property
    def _streaming(self) -> float:
        """Measured share of the device's bandwidth over the fitted device's, where known."""
        own = self.device.streaming
        bf16 = self.calibration.gemm.get("bf16")
        if own is None or bf16 is None or self.label() == "interpolated":
            return 1.0
        return own.share / bf16.memory

    def label(self, operators: Sequence[Operator] = ()) -> Label:
        """interpolated on a measured device, analytic elsewhere and with unmeasured kernels."""
        measured = self.device.id in self.calibration.devices
        return "interpolated" if measured and not any(map(is_sparse, operators)) else "analytic"

    def sigma(self, kind: str) -> float:
        """Spread of log(measured / predicted) of one operator kind on this device."""
        key = _SCORE.get(kind, kind)
        scores = [q for name, q in self.calibration.quality.items() if name.startswith(key)]
        own = max((q.sigma for q in scores), default=UNMEASURED_SIGMA[kind])
        if self.label() == "interpolated":
            return min(own, UNMEASURED_SIGMA[kind])
        return max(own, UNMEASURED_SIGMA[kind])

    def seconds(self, op: Operator, batch: Batch) -> Array:
        """Seconds of one launch of `op`; shape batch.shape, zero where it has no work."""
        own = self._held(op, batch)
        return own if self.clock is None else np.maximum(own, self._burst.seconds(op, batch))

    def _held(self, op: Operator, batch: Batch) -> Array:
        """`seconds` at the clock alone."""
        method = self._sparse if is_sparse(op) else {
            "gemm": self._gemm, "prefill": self._prefill, "mla_prefill": self._prefill,
            "decode": self._decode, "mla_decode": self._decode, "moe": self._moe,
            "stream": self._stream, "scan": self._stream, "collective": self._collective,
        }[op.kind]  # fmt: skip
        seconds = method(op, batch)
        return seconds if seconds.shape == batch.shape else np.broadcast_to(seconds, batch.shape)

    def stacked(self, ops: Sequence[Operator], batch: Batch) -> Array:
        """`seconds` of several operators at once, shape (operators, *batch.shape).

        Matrix products of one operand class are priced as one array, equal ones once; so are
        elementwise kernels. No kernel is faster at a lower clock than in a short run.
        """
        own = self.held(ops, batch)
        return own if self.clock is None else np.maximum(own, self._burst.stacked(ops, batch))

    def held(self, ops: Sequence[Operator], batch: Batch) -> Array:
        """`stacked` at the clock alone: linear in 1 / clock but for what the memory bounds."""
        if self.shared is None:
            return self._priced(ops, batch)
        return self.shared.seconds((self.clock, self.padded_experts), ops, batch, self._priced)

    def _priced(self, ops: Sequence[Operator], batch: Batch) -> Array:
        """`held`, every operator by itself."""
        out = np.zeros((len(ops), *batch.shape))
        products: dict[tuple[str, str], list[int]] = {}
        streams: dict[str, list[int]] = {}
        attention: dict[tuple[str, object], int] = {}  # groups of layers often attend alike
        for i, op in enumerate(ops):
            if op.kind == "gemm" and op.weight_format is not None:
                key = (op.weight_format.id, self._rate(op.weight_format)[1])
                products.setdefault(key, []).append(i)
            elif op.kind in ("stream", "scan"):
                streams.setdefault(op.rate.id if op.rate else "", []).append(i)
            elif isinstance(op.shape, AttentionShape):
                first = attention.setdefault((op.kind, op.shape), i)
                out[i] = out[first] if first < i else self._held(op, batch)
            else:
                out[i] = self._held(op, batch)
        for places in products.values():
            self._stack_products(ops, places, batch, out)
        for places in streams.values():
            mine = [ops[i] for i in places]
            flop, read, written = (linear_rows([getattr(op, r) for op in mine], batch)
                                   for r in ("flop", "read", "written"))  # fmt: skip
            out[places] = self._stream_s(mine[0].rate, flop, read + written)
        return out

    def _stack_products(
        self, ops: Sequence[Operator], places: list[int], batch: Batch, out: Array
    ) -> None:
        """Fill the rows `places` of `out`: products of one operand class."""
        made: dict[Any, tuple[Array, Array | float, Array | float, Array]] = {}
        distinct: dict[Any, tuple[Array, Array]] = {}
        keys = []
        for i in places:
            s = ops[i].shape
            assert isinstance(s, GemmShape)
            rows = tuple(s.rows.items())
            keys.append((rows, s.n * s.batch, s.k, s.over_rows))
            if rows not in distinct:
                distinct[rows] = _distinct(linear(s.rows, batch))
            if keys[-1] not in made:
                made[keys[-1]] = _product(s, *distinct[rows])
        sizes = [len(m) for m, *_ in made.values()]
        m, n, k = (
            np.concatenate([np.broadcast_to(v[j], len(v[0])) for v in made.values()])
            for j in range(3)
        )
        parts = np.split(self._products_s(ops[places[0]], m, n, k), np.cumsum(sizes)[:-1])
        seconds = {
            key: part[v[3]].reshape(batch.shape) for (key, v), part in zip(made.items(), parts)
        }
        for i, key in zip(places, keys):
            out[i] = seconds[key]

    def fixed_s(self, op: Operator) -> float:
        """Seconds of one launch of `op` that its benchmark spends without work to show for it.

        Benchmarks launch kernels one by one; an engine that replays a captured graph saves part.
        """
        cal = self.calibration
        if is_sparse(op):
            return LAUNCH_S
        if op.kind == "moe" and op.weight_format is not None:
            p = self._parameters(cal.moe, op.weight_format, self._rate(op.weight_format)[1])
            return p.fixed * (1.0 - p.small)
        if op.kind == "gemm" and op.weight_format is not None:
            p = self._parameters(cal.gemm, op.weight_format, self._rate(op.weight_format)[1])
            return p.fixed
        if op.kind in ("decode", "mla_decode"):
            return (cal.mla_decode if op.kind == "mla_decode" else cal.decode).empty_s(self.shape)
        return 0.0

    def _rate(self, fmt: NumberFormat) -> tuple[float, str]:
        known = self._rates.get(fmt.id)
        if known is None:
            rate, name = self.device.matrix_rate(fmt)
            known = self._rates[fmt.id] = rate * self.headroom, name
        return known

    def _parameters(self, table: dict[str, P], fmt: NumberFormat, rate_name: str) -> P:
        """Parameters of the closest measured operand class."""
        if rate_name in ("fp8", "fp4", "fp6", "int8"):
            # Of the two measured 8-bit expert kernels engines run the block-scaled one by default;
            # 4-bit operands have no measurements and take its parameters at their own rate.
            wanted = ["fp8-block", "fp8"]
        elif fmt.bits < 8:
            wanted = ["mxfp4", "int4"] if fmt.id.startswith("mx") else ["int4", "mxfp4"]
        else:
            wanted = []
        return next((table[w] for w in [*wanted, "bf16"] if w in table), next(iter(table.values())))

    def _gemm(self, op: Operator, batch: Batch) -> Array:
        shape = op.shape
        assert isinstance(shape, GemmShape)
        m, n, k, back = _product(shape, *_distinct(linear(shape.rows, batch)))
        return self._products_s(op, m, n, k)[back].reshape(batch.shape)

    def _products_s(self, op: Operator, m: Array, n: Array | float, k: Array | float) -> Array:
        """Seconds of products in the operand class of `op`."""
        fmt = op.weight_format
        assert fmt is not None
        rate, name = self._rate(fmt)
        classes = self.calibration.gemm
        if not fmt.scales:
            classes = {k: v for k, v in classes.items() if k != "fp8-block"}
        p: GemmParameters = self._parameters(classes, fmt, name)
        if self.clock is not None:
            p = evolve(p, throttle=0.0)
        matched = name in ("fp8", "fp4", "fp6", "int8")
        return gemm_time_s(
            p, self.shape, m, n, k, rate_flop_per_s=rate,
            weight_bytes_per_value=fmt.bytes_per_value,
            activation_bytes_per_value=min(fmt.bytes_per_value, 2.0) if matched else 2.0,
        )  # fmt: skip

    def _prefill(self, op: Operator, batch: Batch) -> Array:
        if not batch.prefill_sequences.any():
            return np.zeros(())
        shape = op.shape
        assert isinstance(shape, AttentionShape)
        share = shape.token_share
        return shape.work * prefill_time_s(
            self._prompt_parameters, self.shape, batch=batch.prefill_sequences,
            queries=batch.prefill_tokens * share, prior=batch.prefill_prior * share,
            heads=shape.heads, kv_heads=shape.kv_heads, head_dim=shape.head_dim,
            v_head_dim=shape.v_head_dim, window=shape.window, causal=shape.causal,
            kv_bytes_per_value=self._kv_bytes,
        )  # fmt: skip

    def _sparse(self, op: Operator, batch: Batch) -> Array:
        return sparse_time_s(self.sparse, self.shape, op, batch, self._rate)

    def _decode(self, op: Operator, batch: Batch) -> Array:
        if not batch.decode_sequences.any():
            return np.zeros(())
        shape = op.shape
        assert isinstance(shape, AttentionShape)
        latent = op.kind == "mla_decode"
        p = self.calibration.mla_decode if latent else self.calibration.decode
        # A cached latent is key and value at once: its values cost no further bytes.
        values = 1e-9 if latent else shape.v_head_dim
        return decode_time_s(
            p, self.shape, batch=batch.decode_sequences,
            context=(batch.decode_context + 1.0) * shape.token_share, heads=shape.heads,
            kv_heads=shape.kv_heads, head_dim=shape.head_dim, v_head_dim=values,
            product_width=shape.v_head_dim if latent else 0.0, window=shape.window,
            kv_bytes_per_value=self._kv_bytes,
        )  # fmt: skip

    @cached_property
    def _prompt_parameters(self) -> PrefillParameters:
        p = self.calibration.prefill
        return p if self.clock is None else evolve(p, throttle=0.0)

    @cached_property
    def _kv_bytes(self) -> float:
        return self.plan.formats.of("kv").bytes_per_value

    def _moe(self, op: Operator, batch: Batch) -> Array:
        shape = op.shape
        assert isinstance(shape, MoeShape)
        assert op.weight_format is not None
        fmt = op.weight_format
        rate, name = self._rate(fmt)
        p: MoeParameters = self._parameters(self.calibration.moe, fmt, name)
        matched = name in ("fp8", "fp4", "fp6", "int8")
        tokens, back = np.unique(linear(shape.rows, batch), return_inverse=True)
        seconds = moe_time_s(
            p, self.shape, tokens, hidden=shape.hidden, inner=shape.inner,
            experts=shape.experts_total, experts_local=shape.experts,
            per_token=shape.experts_per_token, rate_flop_per_s=rate,
            weight_bytes_per_value=fmt.bytes_per_value,
            activation_bytes_per_value=min(fmt.bytes_per_value, 2.0) if matched else 2.0,
            gated=shape.gated,
        )  # fmt: skip
        if self.padded_experts and name == "fp8":
            seconds = np.maximum(seconds, np.where(tokens > 0, self._padded_s(shape), 0.0))
        return seconds[back].reshape(batch.shape)

    def _padded_s(self, shape: MoeShape) -> float:
        """Least seconds of experts in DeepGEMM's contiguous layout, however few tokens there are.

        Every local expert has at least one tile of 128 rows, and tiles without tokens load both
        operands like the others: 128 x 128 activations beside 128 x 128 weights, through the
        last-level cache.
        """
        matrices = 3 if shape.gated else 2
        weights = matrices * shape.hidden * shape.inner * shape.experts
        rate = CACHE_BYTES_PER_CLOCK * self.shape.units * self.shape.clock_hz
        return 2.0 * weights / rate

    def _stream(self, op: Operator, batch: Batch) -> Array:
        moved = linear(op.read, batch) + linear(op.written, batch)
        return self._stream_s(op.rate, linear(op.flop, batch), moved)

    def _stream_s(self, fmt: NumberFormat | None, flop: Array, moved: Array) -> Array:
        vector = self.device.rates.vector_flop_per_s
        return stream_time_s(
            self.stream, flop, moved, flop_per_s=vector if fmt is None else self._rate(fmt)[0],
            bandwidth_bytes_per_s=self.device.memory.bandwidth_bytes_per_s,
            cache_bytes=self.device.memory.cache_bytes,
        )  # fmt: skip

    def _collective(self, op: Operator, batch: Batch) -> Array:
        shape = op.shape
        assert isinstance(shape, CollectiveShape)
        tier = tier_for(self.device, self.cluster, shape.ranks)
        node = self._node
        if shape.pattern == "all_reduce" and shape.ranks > node > 1 and shape.ranks % node == 0:
            library = self._library(shape)
            return hierarchical_time_s(
                library, library, linear(op.sent, batch), shape.ranks, node,
                inner_tier=tier_for(self.device, self.cluster, node), outer_tier=tier,
            )  # fmt: skip
        if shape.copies and shape.ranks > node > 1:
            return exchange_time_s(
                self._library(shape), linear(op.sent, batch), shape.copies, shape.ranks, node,
                inner_tier=tier_for(self.device, self.cluster, node), outer_tier=tier,
            )  # fmt: skip
        return collective_time_s(
            self._library(shape), shape.pattern, linear(op.sent, batch), shape.ranks,
            link_bytes_per_s=tier.link_bytes_per_s, latency_s=tier.latency_s,
        )  # fmt: skip

    @property
    def _node(self) -> int:
        """Devices that the innermost links join."""
        if self.cluster is not None:
            return self.cluster.tiers[0].devices
        return max(1, self.device.links.scale_up_domain)

    def _library(self, shape: CollectiveShape) -> CollectiveParameters:
        if shape.ranks > 2 and self._over_host(shape.ranks):
            # An engine's own all-reduce needs direct links; the library stages in host memory.
            name = "all_to_all" if shape.pattern == "send_recv" else shape.pattern
            return over_host(self.calibration.nccl[name], shape.ranks)
        if shape.pattern == "all_reduce" and self.captured and shape.ranks <= 8:
            return self.calibration.all_reduce_custom
        name = "all_to_all" if shape.pattern == "send_recv" else shape.pattern
        return self.calibration.nccl[name]

    def _over_host(self, ranks: int) -> bool:
        """Whether ranks meet over the host, and the family was measured over direct links."""
        tier = tier_for(self.device, self.cluster, ranks)
        if tier.link_bytes_per_s > self.device.links.host_bytes_per_s or ranks > 8:
            return False
        if self.cluster is not None or tier.name != self.device.links.host_name:
            return False
        return all(load_accelerator(d).links.scale_up_bytes_per_s > 0
                   for d in self.calibration.devices)  # fmt: skip


def _distinct(rows: Array) -> tuple[Array, Array]:
    """Distinct row counts, and where each step's is.

    Steps that differ in context alone share their products: each row count is priced once.
    """
    values, back = np.unique(rows, return_inverse=True)
    return values, back.reshape(-1)


def _product(
    shape: GemmShape, rows: Array, back: Array
) -> tuple[Array, Array | float, Array | float, Array]:
    """Rows, columns and inner dimensions of a product, and where each step's is."""
    n, k = float(shape.n * shape.batch), float(shape.k)
    if shape.over_rows:
        return n * (rows > 0), k, np.maximum(rows, 1.0), back
    return rows, n, k, back


def linear(row: Coefficients, batch: Batch) -> Array:
    """The value of a coefficient row at a batch."""
    total = np.zeros(batch.shape)
    for name, value in row.items():
        total = total + value * batch.feature(name)
    return total


def linear_rows(rows: Sequence[Coefficients], batch: Batch) -> Array:
    """`linear` of several coefficient rows, shape (rows, *batch.shape)."""
    names = list({name: None for row in rows for name in row})
    if not names:
        return np.zeros((len(rows), *batch.shape))
    table = np.array([[row.get(name, 0.0) for name in names] for row in rows])
    return np.tensordot(table, np.stack([batch.feature(name) for name in names]), axes=1)
