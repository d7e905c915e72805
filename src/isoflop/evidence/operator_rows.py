"""Measured kernel tables (Parquet): each row straight through its kernel model."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..cost.collectives import collective_time_s, tier_for
from ..cost.interval import Z90
from ..cost.kernels import DeviceShape
from ..cost.kernels.attention import decode_time_s, prefill_time_s
from ..cost.kernels.calibration import KernelCalibration, load_kernels
from ..cost.kernels.gemm import gemm_time_s, quantize_time_s
from ..cost.kernels.moe import moe_time_s
from ..errors import InvalidInput, IsoflopError, MissingExtra
from ..hardware import Accelerator, load_accelerator
from .case import Case, Prediction
from .routing import benchmark_routing, deals_in_turn, gated_rows

CLASSES = {
    "bfloat16": ("bf16", "bf16", 2.0),
    "fp8": ("fp8", "fp8", 1.0),
    "fp8_block": ("fp8-block", "fp8", 1.0),
    "int4_wo": ("int4", "bf16", 0.53),
    "w4a16_mxfp4": ("mxfp4", "bf16", 0.53),
}
"""Operand name in the tables -> calibration class, rate name and weight bytes."""

Columns = dict[str, np.ndarray]


def predict_operator_table(path: Path) -> list[Prediction]:
    """Predictions of every row of a kernel table.

    Raises
    ------
    InvalidInput
        If the file is not Parquet or holds no operator isoflop models.
    MissingExtra
        If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("Reading Parquet tables", "data") from None
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"'{path}' cannot be read as Parquet: {error}.") from None
    columns = {name: np.asarray(table[name].to_pylist()) for name in table.column_names}
    for needed in ("op_name", "device", "latency"):
        if needed not in columns:
            raise InvalidInput(f"'{path}' is not an operator table: it lacks '{needed}'.")
    predicted = np.full(len(table), np.nan)
    sigma = np.full(len(table), np.nan)
    reasons = np.full(len(table), "no kernel model for this operator", object)
    keys = np.array([f"{o}|{d}" for o, d in zip(columns["op_name"], columns["device"])])
    for key in np.unique(keys):
        mask = keys == key
        op, device = str(key).split("|", 1)
        rows = {k: v[mask] for k, v in columns.items()}
        predicted[mask], sigma[mask], reasons[mask] = _operator(op, device, rows)
    return _predictions(columns, predicted, sigma, reasons)


def _predictions(
    columns: Columns, predicted: np.ndarray, sigma: np.ndarray, reasons: np.ndarray
) -> list[Prediction]:
    out = []
    names = [k for k in columns if k not in ("latency", "power", "framework", "version")]
    shapes = zip(*(columns[k] for k in names))
    for i, shape in enumerate(shapes):
        held = zlib.crc32(repr(tuple(shape)).encode()) % 10 < 4
        case = Case(
            line=i + 2,
            source=f"{columns['device'][i]} {columns['op_name'][i]}",
            metric="kernel_s",
            measured=float(columns["latency"][i]) * 1e-3,
            role="check" if held else "fit",
        )
        value = float(predicted[i])
        if not (np.isfinite(value) and value > 0 and case.measured > 0):
            out.append(Prediction(case=case, reason=str(reasons[i])))
            continue
        spread = float(np.exp(Z90 * sigma[i]))
        out.append(
            Prediction(
                case=case,
                predicted=value,
                low=value / spread,
                high=value * spread,
                label="interpolated",
            )
        )
    return out


def _operator(op: str, device_name: str, rows: Columns) -> tuple[Any, Any, Any]:
    """Predicted seconds, sigma and reason of rows of one operator on one device."""
    count = len(rows["latency"])
    try:
        device = load_accelerator(device_name)
    except IsoflopError as error:
        return np.full(count, np.nan), np.full(count, np.nan), str(error)
    calibration, _ = load_kernels(device.family)
    method = _METHODS.get(op)
    if method is None:
        return np.full(count, np.nan), np.full(count, np.nan), f"no kernel model for '{op}'"
    return method(device, calibration, rows)


def _by(rows: Columns, keys: list[str], evaluate: Any) -> np.ndarray:
    """Evaluate per distinct combination of `keys`."""
    combined = np.array(["|".join(map(str, v)) for v in zip(*(rows[k] for k in keys))])
    out = np.full(len(combined), np.nan)
    for key in np.unique(combined):
        mask = combined == key
        first = [rows[k][mask][0] for k in keys]
        out[mask] = evaluate({k: v[mask] for k, v in rows.items()}, *first)
    return out


def _sigma(calibration: KernelCalibration, name: str) -> float:
    score = calibration.quality.get(name)
    return score.sigma if score else 0.3


def _gemm(device: Accelerator, cal: KernelCalibration, rows: Columns) -> tuple[Any, Any, Any]:
    shape = DeviceShape.of(device)

    def one(r: Columns, dtype: str) -> Any:
        kind, rate, width = CLASSES.get(str(dtype), ("", "", 0.0))
        # The block-scaled table bottoms out at 60-90 us of host time per call.
        if rate not in device.rates.dense_flop_per_s or kind in ("", "fp8-block"):
            return np.nan
        p = cal.gemm.get("fp8" if rate == "fp8" else "bf16")
        if p is None:
            return np.nan
        seconds = gemm_time_s(
            p,
            shape,
            r["m"],
            r["n"],
            r["k"],
            rate_flop_per_s=device.rates.dense_flop_per_s[rate],
            weight_bytes_per_value=width,
            activation_bytes_per_value=width,
            streamed=False,
        )
        # The 8-bit benchmark quantises its activations inside the timed call.
        return seconds + (quantize_time_s(p, shape, r["m"], r["k"]) if rate == "fp8" else 0.0)

    return (
        _by(rows, ["gemm_dtype"], one),
        _sigma(cal, "gemm.fp8"),
        ("no rate for these operands, or block-scaled ones timed with their host overhead"),
    )


def _window(rows: Columns) -> Columns:
    return rows if "window_size" in rows else rows | {"window_size": np.zeros_like(rows["isl"])}


def _prefill(device: Accelerator, cal: KernelCalibration, rows: Columns) -> tuple[Any, Any, Any]:
    shape, rows = DeviceShape.of(device), _window(rows)
    seconds = _by(
        rows,
        ["num_heads", "num_key_value_heads", "head_dim", "window_size", "kv_cache_dtype"],
        lambda r, h, kv, d, w, t: prefill_time_s(
            cal.prefill,
            shape,
            batch=r["batch_size"],
            queries=r["isl"],
            prior=r["step"],
            heads=h,
            kv_heads=kv,
            head_dim=d,
            window=w,
            kv_bytes_per_value=1.0 if t == "fp8" else 2.0,
        ),
    )
    return seconds, _sigma(cal, "prefill"), ""


def _decode(device: Accelerator, cal: KernelCalibration, rows: Columns) -> tuple[Any, Any, Any]:
    shape, rows = DeviceShape.of(device), _window(rows)
    seconds = _by(
        rows,
        ["kv_cache_dtype"],
        lambda r, t: decode_time_s(
            cal.decode,
            shape,
            batch=r["batch_size"],
            context=r["isl"] + r["step"],
            heads=r["num_heads"],
            kv_heads=r["num_key_value_heads"],
            head_dim=r["head_dim"],
            window=r["window_size"],
            kv_bytes_per_value=1.0 if t == "fp8" else 2.0,
            streamed=False,
        ),
    )
    return seconds, _sigma(cal, "decode"), ""


def _moe(device: Accelerator, cal: KernelCalibration, rows: Columns) -> tuple[Any, Any, Any]:
    shape = DeviceShape.of(device)

    def one(r: Columns, dtype: str, version: str) -> Any:
        kind, rate, width = CLASSES.get(str(dtype), ("", "", 0.0))
        if kind not in cal.moe or rate not in device.rates.dense_flop_per_s:
            return np.nan
        in_turn = deals_in_turn(str(version))
        return moe_time_s(
            cal.moe[kind],
            shape,
            r["num_tokens"],
            hidden=r["hidden_size"],
            inner=r["inter_size"] / r["moe_tp_size"],
            experts=r["num_experts"],
            experts_local=r["num_experts"] / r["moe_ep_size"],
            per_token=r["topk"],
            rate_flop_per_s=device.rates.dense_flop_per_s[rate],
            weight_bytes_per_value=width,
            activation_bytes_per_value=1.0 if "fp8" in kind else 2.0,
            gated=gated_rows(r, in_turn),
            routing=benchmark_routing(
                r["num_tokens"],
                r["num_experts"],
                r["topk"],
                r["moe_ep_size"],
                r["distribution"],
                in_turn,
            ),
            streamed=False,
        )

    seconds = _by(rows, ["moe_dtype", "version"], one)
    return seconds, _sigma(cal, "moe.bf16"), "no measured class for these weights"


def _collective(device: Accelerator, cal: KernelCalibration, rows: Columns) -> tuple[Any, Any, Any]:
    def one(r: Columns, op: str, source: str, ranks: int) -> Any:
        pattern = {"alltoall": "all_to_all"}.get(str(op), str(op))
        if "eager" in str(source):
            return np.nan
        custom = "NCCL" not in str(source)
        p = cal.all_reduce_custom if custom else cal.nccl.get(pattern)
        if p is None:
            return np.nan
        width = 1.0 if not custom and str(r.get("nccl_dtype", ["half"])[0]) == "int8" else 2.0
        return collective_time_s(
            p,
            pattern,  # type: ignore[arg-type]
            r["message_size"] * width,
            int(ranks),
            link_bytes_per_s=tier_for(device, None, int(ranks)).link_bytes_per_s,
        )

    keys = ["op_name", "kernel_source", "num_gpus"]
    if "nccl_dtype" in rows:
        keys.append("nccl_dtype")
        return (
            _by(rows, keys, lambda r, o, s, n, _: one(r, o, s, n)),
            _sigma(cal, "nccl.all_reduce"),
            "",
        )
    return (
        _by(rows, keys, one),
        _sigma(cal, "all_reduce_custom"),
        ("launched without a captured graph: host time, not the collective"),
    )


_METHODS = {
    "gemm": _gemm,
    "context_attention": _prefill,
    "generation_attention": _decode,
    "moe": _moe,
    "all_reduce": _collective,
    "all_gather": _collective,
    "reduce_scatter": _collective,
    "alltoall": _collective,
}
