"""How gradients travel between data ranks: bytes sent, work to compress, state to keep.

Costs count what an implementation without fused kernels reads and writes per local gradient value:
fp32 accumulators, the error that feeds back, and the compressed copies on both sides of the
reduce-scatter and all-gather that replace an all-reduce of values that cannot be added.
"""

from __future__ import annotations

import re

from attrs import frozen

from ..cost.features import Array
from ..errors import InvalidInput
from ..models import LayerGroup, ModelSpec
from ..parameters import layer_parameters


@frozen(kw_only=True)
class GradientExchange:
    """One way to send gradients.

    Attributes
    ----------
    name : str
    bytes_per_value : float
        Sent per gradient value; 0 where `rank` decides.
    rank : int
        Of the factors sent instead of matrices; 0: whole matrices.
    traffic_bytes : float
        Read and written in device memory per local value to compress and decompress.
    error_bytes : float
        Kept per local value: what compression left out, added to the next step's gradient.
    shards : bool
        Whether ranks may own shards of the gradient (ZeRO 2 and 3).
    """

    name: str
    bytes_per_value: float
    rank: int = 0
    traffic_bytes: float = 0.0
    error_bytes: float = 0.0
    shards: bool = True


EXCHANGES = {
    "fp32": GradientExchange(name="fp32", bytes_per_value=4.0),
    # Read fp32, write 16 bits, and back.
    "bf16": GradientExchange(name="bf16", bytes_per_value=2.0, traffic_bytes=12.0),
    # Read fp32, write 8 bits, add received shards in fp32, write 8 bits again, read them back.
    "8bit": GradientExchange(name="8bit", bytes_per_value=1.0, traffic_bytes=16.0),
    # Read gradient and error, write error; signs out and in; both sides of the server keep error.
    "1bit": GradientExchange(
        name="1bit", bytes_per_value=1 / 8, traffic_bytes=24.0, error_bytes=4.0, shards=False
    ),
}
"""16 bits: Megatron-LM's option to reduce in 16 bits. 8 bits: Dettmers 2015 (arXiv 1511.04561),
ZeRO++'s quantised reduce-scatter (arXiv 2306.10209). 1 bit with error feedback: Seide et al. 2014;
1-bit Adam (arXiv 2102.02888)."""
FACTOR_TRAFFIC_BYTES = 28.0
"""PowerSGD: error added to the gradient (read 8, written 4), read for either product (8), the
approximation subtracted from it (4) and written as gradient (4)."""


def find_exchange(name: str) -> GradientExchange:
    """fp32, bf16, 8bit, 1bit, or powersgd4 for factors of rank 4.

    PowerSGD (Vogels et al. 2019, arXiv 1905.13727) sends P = M Q and Q = M^T P of every matrix M.

    Raises
    ------
    InvalidInput
        If it is none of them.
    """
    match = re.fullmatch(r"powersgd([1-9]\d{0,2})", name)
    if match:
        return GradientExchange(
            name=name, bytes_per_value=0.0, rank=int(match.group(1)), shards=False,
            traffic_bytes=FACTOR_TRAFFIC_BYTES, error_bytes=4.0,
        )  # fmt: skip
    if name not in EXCHANGES:
        raise InvalidInput(
            f"The gradient exchange is '{name}'; it must be one of {', '.join(EXCHANGES)} or "
            "powersgd4 (factors of rank 4; 1 to 999)."
        )
    return EXCHANGES[name]


def sent_bytes(exchange: GradientExchange, model: ModelSpec, tensor: Array) -> Array:
    """Bytes sent per local gradient value of a model whose matrices `tensor` ranks split."""
    if not exchange.rank:
        return exchange.bytes_per_value + 0.0 * tensor
    values = factors = 0.0 * tensor
    for group in model.layers:
        for rows, columns, copies in _matrices(group, model.hidden):
            values = values + group.count * copies * rows * columns / tensor
            factors = factors + group.count * copies * exchange.rank * (rows + columns / tensor)
    return 4.0 * factors / values


def _matrices(group: LayerGroup, hidden: int) -> list[tuple[float, float, float]]:
    """Width, other side and number of a layer's matrices; one side is the model's width."""
    m, f = group.mixer, group.ffn
    parts = layer_parameters(group, hidden)
    out: list[tuple[float, float, float]] = []
    if m.kind == "attention":
        value = m.v_head_dim or m.head_dim
        out += [(hidden, m.heads * m.head_dim, 1), (hidden, m.kv_heads * m.head_dim, 1),
                (hidden, m.kv_heads * value, 1), (hidden, m.heads * value, 1)]  # fmt: skip
    elif parts["mixer"]:
        # Other mixers as square matrices with as many parameters.
        out.append((hidden, hidden, parts["mixer"] / hidden**2))
    inner = parts["dense"] + parts["experts"]
    if f.inner and inner:
        out.append((hidden, f.inner, inner / (hidden * f.inner)))
    return out
