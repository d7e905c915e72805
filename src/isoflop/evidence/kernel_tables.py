"""Kernel tables in CSV, as simulators publish them: each row through its kernel model.

A table is recognised by its columns, or by its file name where it has no header; the device is
the one its path names. No parameter is fitted on any of them, so every row is a check, but for
sparse attention, of which one device's tables are all there is.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from attrs import frozen

from ..cost.collectives import Pattern, collective_time_s, tier_for
from ..cost.features import Array
from ..cost.interval import Z90
from ..cost.kernels import DeviceShape
from ..cost.kernels.attention import decode_time_s, prefill_time_s
from ..cost.kernels.calibration import KernelCalibration, load_kernels
from ..cost.kernels.gemm import gemm_time_s
from ..cost.kernels.moe import moe_time_s
from ..cost.kernels.routing import even_routing
from ..cost.kernels.sparse import SparseParameters, index_scores_s, sparse_attention_s
from ..cost.kernels.stream import StreamParameters, stream_time_s
from ..cost.operators.latent import index_key_bytes, latent_bytes
from ..cost.timing import UNMEASURED_SIGMA
from ..errors import InvalidInput, UnknownName
from ..hardware import Accelerator, load_accelerator
from .case import Case, Prediction

DEVICES = {"a100": "a100-80gb-sxm", "h100": "h100-sxm"}
"""Short names in paths that mean one board of several; others are catalog ids."""
LAUNCH_BOUND_S = 1e-4
"""Kernels shorter than this, timed one by one from the host, show its 50 us per call."""
HEADLESS_DECODE = ("dtype", "kv_dtype", "batch_size", "kv_len", "latency_us", "mfu")

Rows = list[dict[str, str]]


@frozen(kw_only=True, eq=False)
class Setting:
    """The device of a table and its kernel parameters."""

    device: Accelerator
    shape: DeviceShape
    kernels: KernelCalibration

    @classmethod
    def of(cls, device: Accelerator) -> Setting:
        """The setting of a catalog device."""
        return cls(device=device, shape=DeviceShape.of(device),
                   kernels=load_kernels(device.family)[0])  # fmt: skip

    @property
    def label(self) -> str:
        """interpolated on a measured device, analytic elsewhere."""
        return "interpolated" if self.device.id in self.kernels.devices else "analytic"

    def sigma(self, score: str, kind: str) -> float:
        """Spread of log(measured / predicted) of a kernel."""
        known = self.kernels.quality.get(score)
        if self.label == "interpolated" and known is not None:
            return known.sigma
        return max(UNMEASURED_SIGMA[kind], known.sigma if known is not None else 0.0)

    def rate(self, name: str) -> float:
        """Dense rate of a format."""
        rates = self.device.rates.dense_flop_per_s
        if name not in rates:
            raise InvalidInput(f"{self.device.name} has no {name} rate to price this table at.")
        return rates[name]


@frozen(kw_only=True, eq=False)
class Part:
    """One kernel of a table, an entry per row.

    Attributes
    ----------
    what : str
    predicted, measured : array
        Seconds; `predicted` is NaN where `reason` says why.
    sigma : float
    fitted : bool
        Whether the kernel's parameters were set on these rows.
    """

    what: str
    predicted: Array
    measured: Array
    sigma: float
    reason: str = ""
    fitted: bool = False


@frozen(kw_only=True)
class Kind:
    """One layout of table.

    Attributes
    ----------
    columns : tuple of str
        Header columns that tell it; empty where file names do.
    name : str
        Regular expression over the last parts of the path; its groups are handed on.
    read : callable
        From the setting, the rows and the groups to parts.
    """

    columns: tuple[str, ...]
    name: str
    read: Callable[[Setting, Rows, Sequence[str]], Iterator[Part]]


def _floats(rows: Rows, column: str) -> Array:
    return np.array([float(r[column]) for r in rows])


# Products ------------------------------------------------------------------------------------


def _gemm(at: Setting, m: Array, n: Array | float, k: Array | float, eight_bit: bool) -> Array:
    width = 1.0 if eight_bit else 2.0
    return gemm_time_s(
        at.kernels.gemm["fp8" if eight_bit else "bf16"], at.shape, m, n, k,
        rate_flop_per_s=at.rate("fp8" if eight_bit else "fp16"), weight_bytes_per_value=width,
        activation_bytes_per_value=width, streamed=False,
    )  # fmt: skip


def _eight_bit_products(at: Setting, rows: Rows, _: Sequence[str]) -> Iterator[Part]:
    """m, k, n and microseconds; the stated utilisation is of the 8-bit rate."""
    m, n, k = (_floats(rows, c) for c in "mnk")
    yield Part(what="fp8 products", predicted=_gemm(at, m, n, k, True),
               measured=_floats(rows, "latency_us") * 1e-6,
               sigma=at.sigma("gemm.fp8", "gemm"))  # fmt: skip


def _listed_products(at: Setting, rows: Rows, _: Sequence[str]) -> Iterator[Part]:
    """m, k, n, "0.19ms" and a rate, 16 bits."""
    m, k, n, t = (np.array([float(r[c].strip().removesuffix("ms")) for r in rows]) for c in "0123")
    yield Part(what="fp16 products", predicted=_gemm(at, m, n, k, False), measured=t * 1e-3,
               sigma=at.sigma("gemm.bf16", "gemm"))  # fmt: skip


def _experts(at: Setting, rows: Rows, _: Sequence[str]) -> Iterator[Part]:
    """Grouped 8-bit products of one rank's experts, every expert given as many tokens."""
    measured = (_floats(rows, "up_proj_us") + _floats(rows, "down_proj_us")) * 1e-6
    kernel = at.kernels.moe.get("fp8-block")
    predicted = np.full(len(rows), np.nan)
    for i, r in enumerate(rows if kernel is not None else []):
        assert kernel is not None
        experts, local = float(r["num_experts"]), float(r["num_local_experts"])
        tokens = float(r["tokens_per_expert"]) * experts / float(r["topk"])
        # Routing and the permutation of tokens are not part of these two kernels.
        seconds = moe_time_s(
            kernel, at.shape, np.array(tokens), hidden=float(r["hidden_size"]),
            inner=float(r["intermediate_size"]), experts=experts, experts_local=local,
            per_token=float(r["topk"]), rate_flop_per_s=at.rate("fp8"),
            weight_bytes_per_value=1.0, activation_bytes_per_value=1.0,
            routing=even_routing(np.array(tokens), experts, local, float(r["topk"])),
        )  # fmt: skip
        predicted[i] = float(seconds) - kernel.fixed
    yield Part(what="fp8 experts", predicted=predicted, measured=measured,
               sigma=at.sigma("moe.fp8-block", "moe"),
               reason="no measured 8-bit experts in this family")  # fmt: skip


# Attention -----------------------------------------------------------------------------------


def _sixteen(rows: Rows) -> Array:
    """Which rows have 16-bit operands and caches; columns that are absent mean so."""
    bits = ("bf16", "fp16")
    return np.array([r.get("dtype", "bf16") in bits and r.get("kv_dtype", "bf16") in bits
                     for r in rows])  # fmt: skip


def _masked(seconds: Array, keep: Array) -> Array:
    return np.where(keep, seconds, np.nan)


def _attention(at: Setting, rows: Rows, what: str, seconds: Array, model: str, kind: str) -> Part:
    """Attention rows in microseconds, of which those at 16 bits are priced."""
    return Part(
        what=what, predicted=_masked(seconds, _sixteen(rows)),
        measured=_floats(rows, "latency_us") * 1e-6, sigma=at.sigma(model, kind),
        reason="8-bit attention was not measured",
    )  # fmt: skip


def _prompts(at: Setting, rows: Rows, groups: Sequence[str]) -> Iterator[Part]:
    """seq_len of one prompt; the file name is heads, KV heads, width."""
    heads, kv, dim = (float(g) for g in groups)
    seconds = prefill_time_s(at.kernels.prefill, at.shape, batch=1.0,
                             queries=_floats(rows, "seq_len"), prior=0.0, heads=heads,
                             kv_heads=kv, head_dim=dim)  # fmt: skip
    yield _attention(at, rows, "prefill attention", seconds, "prefill", "prefill")


def _latent_prompts(at: Setting, rows: Rows, groups: Sequence[str]) -> Iterator[Part]:
    """The same for latent attention not absorbed: the file name is heads, values, rotary part."""
    heads, value, rotary = (float(g) for g in groups)
    seconds = prefill_time_s(at.kernels.prefill, at.shape, batch=1.0,
                             queries=_floats(rows, "seq_len"), prior=0.0, heads=heads,
                             kv_heads=heads, head_dim=value + rotary,
                             v_head_dim=value)  # fmt: skip
    yield _attention(at, rows, "latent prefill attention", seconds, "prefill", "mla_prefill")


def _decoding(at: Setting, rows: Rows, groups: Sequence[str]) -> Iterator[Part]:
    heads, kv, dim = (float(g) for g in groups)
    seconds = decode_time_s(at.kernels.decode, at.shape, batch=_floats(rows, "batch_size"),
                            context=_floats(rows, "kv_len"), heads=heads, kv_heads=kv,
                            head_dim=dim, streamed=False)  # fmt: skip
    yield _attention(at, rows, "decode attention", seconds, "decode", "decode")


def _latent_decoding(at: Setting, rows: Rows, groups: Sequence[str]) -> Iterator[Part]:
    heads, latent, rotary = (float(g) for g in groups)
    seconds = decode_time_s(at.kernels.mla_decode, at.shape, batch=_floats(rows, "batch_size"),
                            context=_floats(rows, "kv_len"), heads=heads, kv_heads=1.0,
                            head_dim=latent + rotary, v_head_dim=1e-9,
                            product_width=latent, streamed=False)  # fmt: skip
    yield _attention(at, rows, "latent decode attention", seconds, "mla_decode", "mla_decode")


CACHED_BYTES = {"fp8": 1.0, "bf16": 2.0}
"""Bytes a value of a cached latent, by the name a table gives its format."""
ROPE_DIM = 64.0
"""Rotary values of a key, which tables of sparse attention count within its width."""


def _index_scores(at: Setting, rows: Rows, groups: Sequence[str]) -> Iterator[Part]:
    """Scores of an indexer: new and all tokens of one prompt, or of each decoding sequence."""
    heads, width = (float(g) for g in groups)
    decoding = "batchsize" in rows[0]
    new, all_ = _floats(rows, "next_n" if decoding else "s_q"), _floats(rows, "s_kv")
    seconds = index_scores_s(
        SparseParameters(), at.shape, decoding=decoding,
        batch=_floats(rows, "batchsize") if decoding else 1.0, queries=new, prior=all_ - new,
        heads=heads, width=width, key_bytes=index_key_bytes(width), rate_flop_per_s=at.rate("fp8"),
    )  # fmt: skip
    yield Part(what="index scores", predicted=seconds, sigma=UNMEASURED_SIGMA["sparse"],
               measured=_floats(rows, "latency_us") * 1e-6, fitted=True)  # fmt: skip


def _sparse_attention(at: Setting, rows: Rows, groups: Sequence[str]) -> Iterator[Part]:
    """Attention over chosen tokens: the file name is heads, key width and how many are chosen."""
    heads, width, selected = (float(g) for g in groups)
    decoding = "batch_size" in rows[0]
    rank = width - ROPE_DIM
    kept = np.array(
        [
            latent_bytes(rank, ROPE_DIM, CACHED_BYTES[r.get("kv_dtype", "bf16")], sparse=True)
            for r in rows
        ]
    )
    seconds = sparse_attention_s(
        SparseParameters(), at.shape, decoding=decoding,
        queries=_floats(rows, "batch_size" if decoding else "s_q"), heads=heads,
        selected=selected, head_dim=width, v_head_dim=rank, token_bytes=kept,
    )  # fmt: skip
    yield Part(what="sparse attention", predicted=seconds, sigma=UNMEASURED_SIGMA["sparse"],
               measured=_floats(rows, "latency_us") * 1e-6, fitted=True)  # fmt: skip


def _paged_attention(at: Setting, rows: Rows, _: Sequence[str]) -> Iterator[Part]:
    """Prompt chunks and decoding of equal sequences over a paged cache, milliseconds."""
    tp = _floats(rows, "num_tensor_parallel_workers")
    heads, kv = _floats(rows, "n_q_head") / tp, _floats(rows, "n_kv_head") / tp
    shape = {"batch": _floats(rows, "batch_size"), "heads": heads, "kv_heads": kv,
             "head_dim": _floats(rows, "n_embd") / _floats(rows, "n_q_head")}  # fmt: skip
    cached, chunk = _floats(rows, "kv_cache_size"), _floats(rows, "prefill_chunk_size")
    prompt = prefill_time_s(at.kernels.prefill, at.shape, queries=chunk, prior=cached, **shape)
    decode = decode_time_s(at.kernels.decode, at.shape, context=cached + 1.0, streamed=False,
                           **shape)  # fmt: skip
    for name, seconds in (("prefill", prompt), ("decode", decode)):
        measured = _floats(rows, f"time_stats.attn_{name}.median") * 1e-3
        ran = measured > 0
        yield Part(what=f"{name} attention", predicted=np.asarray(seconds)[ran],
                   measured=measured[ran], sigma=at.sigma(name, name))  # fmt: skip


# Element-wise kernels ------------------------------------------------------------------------


def _streamed(at: Setting, moved: Array) -> Array:
    memory = at.device.memory
    return stream_time_s(
        StreamParameters(), np.zeros(moved.shape), moved,
        flop_per_s=at.device.rates.vector_flop_per_s,
        bandwidth_bytes_per_s=memory.bandwidth_bytes_per_s, cache_bytes=memory.cache_bytes,
    )  # fmt: skip


def _elements(at: Setting, rows: Rows, groups: Sequence[str]) -> Iterator[Part]:
    """Sizes and billions of 16-bit elements per second, each read and written once."""
    values = np.array([[float(v) for v in r.values()] for r in rows])
    count = values[:, :-1].prod(axis=1)
    measured = count / (values[:, -1] * 1e9)
    seconds = np.where(measured >= LAUNCH_BOUND_S, _streamed(at, 4.0 * count), np.nan)
    yield Part(what=groups[0], predicted=seconds, measured=measured,
               sigma=UNMEASURED_SIGMA["stream"],
               reason="shorter than 0.1 ms: the host's launch, not the kernel")  # fmt: skip


def _layer(at: Setting, rows: Rows, _: Sequence[str]) -> Iterator[Part]:
    """Kernels of one layer outside attention by tokens and tensor degree, milliseconds."""
    names = ("num_tokens", "num_tensor_parallel_workers", "n_embd", "n_expanded_embd", "n_head",
             "n_kv_head")  # fmt: skip
    t, tp, d, inner, heads, kv = (_floats(rows, c) for c in names)
    gated = np.array([1.0 + (r["use_gated_mlp"] == "True") for r in rows])
    qkv = d * (1.0 + 2.0 * kv / heads) / tp
    products = {
        "attn_pre_proj": (qkv, d), "attn_post_proj": (d, d / tp),
        "mlp_up_proj": (gated * inner / tp, d), "mlp_down_proj": (d, inner / tp),
    }  # fmt: skip
    values = {
        "input_layernorm": 2 * d, "post_attention_layernorm": 2 * d, "add": 3 * d,
        "mlp_act": (gated + 1.0) * inner / tp, "attn_rope": 2.0 * d * (1.0 + kv / heads) / tp,
    }  # fmt: skip
    for name, (n, k) in products.items():
        yield Part(what=name, predicted=_gemm(at, t, n, k, False),
                   measured=_floats(rows, f"time_stats.{name}.median") * 1e-3,
                   sigma=at.sigma("gemm.bf16", "gemm"))  # fmt: skip
    for name, each in values.items():
        if f"time_stats.{name}.median" in rows[0]:
            yield Part(what=name, predicted=_streamed(at, 2.0 * t * each),
                       measured=_floats(rows, f"time_stats.{name}.median") * 1e-3,
                       sigma=UNMEASURED_SIGMA["stream"])  # fmt: skip


# Collectives ---------------------------------------------------------------------------------


def _collectives(at: Setting, rows: Rows, groups: Sequence[str]) -> Iterator[Part]:
    """Bytes and milliseconds of one pattern of the communication library."""
    pattern: Pattern = "all_reduce" if groups[0] == "all_reduce" else "send_recv"
    library = at.kernels.nccl["all_reduce" if pattern == "all_reduce" else "all_to_all"]
    ranks, near = _floats(rows, "num_workers"), _floats(rows, "devices_per_node")
    size = _floats(rows, "size")
    seconds = np.full(len(rows), np.nan)
    for count in np.unique(ranks[ranks == near]):
        mask = (ranks == count) & (near == count)
        link = tier_for(at.device, None, int(count)).link_bytes_per_s
        seconds[mask] = collective_time_s(library, pattern, size[mask], int(count),
                                          link_bytes_per_s=link)  # fmt: skip
    yield Part(what=pattern, predicted=seconds,
               measured=_floats(rows, f"time_stats.{pattern}.median") * 1e-3,
               sigma=at.sigma("nccl.all_reduce", "collective"),
               reason="ranks on several nodes, whose network the table does not name")  # fmt: skip


HEADS = r"(\d+)-(\d+)-(\d+)\.csv"
KINDS: tuple[Kind, ...] = (
    Kind(columns=("m", "k", "n", "latency_us"), name="", read=_eight_bit_products),
    Kind(columns=("num_local_experts", "tokens_per_expert", "up_proj_us"), name="", read=_experts),
    Kind(columns=("s_kv", "latency_us"), name=r"dsa/.*/logits-(\d+)-(\d+)\.csv",
         read=_index_scores),
    Kind(columns=("latency_us",), name=rf"dsa/.*/attn-{HEADS}", read=_sparse_attention),
    Kind(columns=("seq_len", "latency_us"), name=rf"mla/.*/{HEADS}", read=_latent_prompts),
    Kind(columns=("seq_len", "latency_us"), name=HEADS, read=_prompts),
    Kind(columns=("kv_len", "latency_us"), name=rf"mla/.*/{HEADS}", read=_latent_decoding),
    Kind(columns=("kv_len", "latency_us"), name=HEADS, read=_decoding),
    Kind(columns=("time_stats.attn_prefill.median",), name="", read=_paged_attention),
    Kind(columns=("time_stats.mlp_up_proj.median",), name="", read=_layer),
    Kind(columns=("collective", "num_workers", "size"), name=r"(all_reduce|send_recv)\.csv",
         read=_collectives),
    Kind(columns=(), name=r"matmul_\w+\.csv", read=_listed_products),
    Kind(columns=(), name=r"(gelu|softmax|layernorm)_\w+\.csv", read=_elements),
)  # fmt: skip
UNPRICED = {
    "gdn/": "the steps of a gated delta rule are priced as one kernel, not one by one",
    "transformer": "a list of seconds without shapes",
}
"""Parts of a path whose tables cannot be priced, and why."""


def find_kind(path: Path, header: Sequence[str]) -> tuple[Kind, tuple[str, ...]] | None:
    """The layout of a table and what its name says, or None if it is no kernel table."""
    place = "/".join(path.absolute().parts[-5:])
    for kind in KINDS:
        found = re.search(kind.name + "$" if kind.name else "", place)
        if set(kind.columns) <= set(header) and found:
            return kind, found.groups()
    return None


def unpriced(path: Path) -> str:
    """Why a table of a known family of layouts is not priced, or nothing."""
    place = "/".join(path.absolute().parts[-5:])
    return next((why for part, why in UNPRICED.items() if part in place), "")


def device_of(path: Path, named: str = "") -> Accelerator:
    """The device that was asked for, or else the one that the path names.

    Raises
    ------
    InvalidInput
        If neither names one.
    """
    if named:
        return load_accelerator(named)
    for part in reversed(path.absolute().parts):
        for word in re.split(r"[_.]", part.lower()):
            try:
                return load_accelerator(DEVICES.get(word, word))
            except UnknownName:
                continue
    raise InvalidInput(
        f"'{path}' does not say which device it was measured on; name it, such as "
        "--on a800-80gb-sxm."
    )


def kernel_parts(path: Path, on: str = "") -> list[Part] | None:
    """Predictions and measurements of a kernel table; None if the file is no such table.

    Raises
    ------
    InvalidInput
        If the table cannot be priced, or its device is not known.
    """
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    header = next(csv.reader(lines[:1]))
    if why := unpriced(path):
        raise InvalidInput(f"'{path}' cannot be priced: {why}.")
    if header[0] in ("bf16", "fp8"):  # one published decoding table lacks its header
        lines, header = [",".join(HEADLESS_DECODE), *lines], list(HEADLESS_DECODE)
    found = find_kind(path, header)
    if found is None:
        return None
    kind, groups = found
    if not kind.columns:
        lines = [",".join(str(i) for i in range(len(header))), *lines]
    at = Setting.of(device_of(path, on))
    try:
        return list(kind.read(at, list(csv.DictReader(lines)), groups))
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(f"'{path}' has a row that is not a number: {error}.") from None


def predict_kernel_table(path: Path, on: str = "") -> list[Prediction] | None:
    """Predictions of a kernel table's rows; None if the file is no such table.

    Raises
    ------
    InvalidInput
        As `kernel_parts`.
    """
    try:
        parts = kernel_parts(path, on)
    except (OSError, UnicodeDecodeError):
        return None  # the reader of other tables says what is wrong
    if parts is None:
        return None
    setting = Setting.of(device_of(path, on))
    out: list[Prediction] = []
    for part in parts:
        spread = float(np.exp(Z90 * part.sigma))
        for i, (ours, theirs) in enumerate(zip(part.predicted, part.measured, strict=True)):
            case = Case(
                line=i + 2,
                source=f"{setting.device.id} {part.what}",
                metric="kernel_s",
                measured=float(theirs),
                role="fit" if part.fitted else "check",
            )
            if not (np.isfinite(ours) and ours > 0 and theirs > 0):
                out.append(Prediction(case=case, reason=part.reason or "no time was measured"))
                continue
            out.append(Prediction(
                case=case, predicted=float(ours), low=float(ours) / spread,
                high=float(ours) * spread, label=setting.label,
            ))  # fmt: skip
    return out
