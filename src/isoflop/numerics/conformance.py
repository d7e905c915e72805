"""Counts of agreement: with peer libraries where installed, and with exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from .formats import FloatFormat, load, p3109
from .rounding import encode, round_to

ML_DTYPES = (
    "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz",
    "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float6_e2m3fn", "float6_e3m2fn",
    "float4_e2m1fn",
)  # fmt: skip
DIRECTED = (
    "nearest_even", "nearest_away", "nearest_zero", "toward_zero", "away_from_zero", "up", "down",
    "to_odd",
)  # fmt: skip
EXACT_FORMATS = (
    "fp8-e4m3", "fp8-e5m2", "fp6-e3m2", "fp6-e2m3", "fp4-e2m1", "p3109-8p1se", "p3109-8p4sf",
    "fp8-e5m2fnuz", "e5m7", "bf16", "fp16",
)  # fmt: skip


def run() -> list[dict[str, Any]]:
    """Every check that can run here, one record each."""
    return [*_ml_dtypes(), *_gfloat(), *_torch(), *_torchao(), *_exact()]


def _record(check: str, against: str, compared: int, different: int, note: str = "") -> dict:
    return {
        "check": check, "against": against, "compared": int(compared),
        "different": int(different), "note": note,
    }  # fmt: skip


def _absent(check: str, against: str) -> dict:
    return _record(check, against, 0, 0, "not installed")


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == b) & (np.signbit(a) == np.signbit(b)) | (np.isnan(a) & np.isnan(b))


def _ml_dtypes() -> list[dict]:
    check = "decode every code; encode all float16 and bfloat16"
    try:
        import ml_dtypes
    except ImportError:
        return [_absent(check, "ml_dtypes")]
    compared = different = 0
    patterns = np.arange(65536, dtype=np.uint16)
    for name in ML_DTYPES:
        dtype, fmt = getattr(ml_dtypes, name), load(name)
        table = np.arange(fmt.code_count, dtype=np.uint8).view(dtype).astype(np.float64)
        compared += table.size
        different += int((~_same(table, fmt.values)).sum())
        for source in (np.float16, ml_dtypes.bfloat16):
            x = patterns.view(source)
            with np.errstate(all="ignore"):
                peer = x.astype(dtype).view(np.uint8)
            compared += x.size
            different += int((encode(x, fmt, like="ml_dtypes") != peer).sum())
    return [_record(check, f"ml_dtypes {ml_dtypes.__version__}", compared, different)]


def _gfloat() -> list[dict]:
    check = "decode every P3109 code, K = 3 to 8"
    try:
        from gfloat import Domain, Signedness, decode_float
        from gfloat.formats import format_info_p3109
    except ImportError:
        return [_absent(check, "gfloat")]
    compared = different = 0
    for k in range(3, 9):
        for p in range(1, k + 1):
            for signed in (True, False):
                for extended in (True, False):
                    sign = Signedness.Signed if signed else Signedness.Unsigned
                    domain = Domain.Extended if extended else Domain.Finite
                    info = format_info_p3109(k, p, sign, domain)
                    peer = np.array([decode_float(info, c).fval for c in range(1 << k)])
                    ours = p3109(k, p, signed=signed, extended=extended).values
                    compared += peer.size
                    different += int((~_same(peer, ours)).sum())
    return [_record(check, "gfloat", compared, different)]


def _torch() -> list[dict]:
    check = "encode 262,148 float32 patterns to FP8"
    try:
        import torch
    except ImportError:
        return [_absent(check, "torch")]
    x = np.arange(0, 1 << 32, 16384 - 1, dtype=np.uint64).astype(np.uint32).view(np.float32)
    compared = different = 0
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"):
        peer = torch.from_numpy(x).to(getattr(torch, name)).view(torch.uint8).numpy()
        compared += x.size
        different += int((encode(x, name, like="torch-2.13") != peer).sum())
    version = str(torch.__version__)
    note = "" if version.startswith("2.13") else "the preset describes 2.13"
    return [_record(check, f"torch {version}", compared, different, note)]


def _torchao() -> list[dict]:
    check = "MX blocks of FP8 under four scale rules"
    try:
        import torch
        from torchao.prototype.mx_formats import mx_tensor as mx
    except ImportError:
        return [_absent(check, "torchao")]
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((64, 256)) * 2.0 ** rng.uniform(-20, 20, (64, 1))).astype(np.float32)
    compared = different = 0
    for name, dtype in (("mxfp8-e4m3", torch.float8_e4m3fn), ("mxfp8-e5m2", torch.float8_e5m2)):
        for rule in ("floor", "ceil", "rceil", "even"):
            mode = getattr(mx.ScaleCalculationMode, rule.upper())
            scale, data = mx.to_mx(torch.from_numpy(x), dtype, 32, mode)
            scales = 2.0 ** (scale.view(torch.uint8).numpy().astype(np.float64) - 127)
            peer = data.float().numpy().reshape(*scales.shape, 32) * scales[..., None]
            compared += x.size
            different += int((~_same(round_to(x, f"{name}-{rule}"), peer.reshape(x.shape))).sum())
    return [_record(check, "torchao", compared, different)]


def _probes(fmt: FloatFormat, step: int) -> tuple[np.ndarray, list[int], list[Fraction]]:
    """Values, midpoints and their float64 neighbours, with the index below each."""
    xs: list[float] = []
    below: list[int] = []
    for i in range(0, fmt.max_index, step):
        low, high = fmt.value_of_index(i), fmt.value_of_index(i + 1)
        middle = (low + high) / 2
        for x in (low, middle, np.nextafter(middle, 0), np.nextafter(middle, np.inf)):
            xs.append(float(x))
            below.append(i)
    return np.array(xs), below, [Fraction(x) for x in xs]


def _exact() -> list[dict]:
    compared = different = 0
    for name in EXACT_FORMATS:
        fmt = load(name)
        assert isinstance(fmt, FloatFormat)  # exact arithmetic walks the values of one
        step = max(1, fmt.max_index // 500)
        xs, below, exact = _probes(fmt, step)
        ends = {
            i: (Fraction(fmt.value_of_index(i)), Fraction(fmt.value_of_index(i + 1)))
            for i in set(below)
        }
        for rounding in DIRECTED:
            for negative in (False, True):
                up = [
                    _goes_up(x, *ends[i], i, rounding, negative) for x, i in zip(exact, below)
                ]  # fmt: skip
                values = [fmt.value_of_index(i + u) for i, u in zip(below, up)]
                expected = np.array(values) * (-1 if negative else 1)
                if not fmt.negative_zero:
                    expected = expected + 0.0
                got = round_to(-xs if negative else xs, fmt, rounding=rounding)
                compared += xs.size
                different += int((~_same(got, expected)).sum())
    check = f"{len(DIRECTED)} directions at values, ties and their neighbours"
    return [_record(check, "rational arithmetic", compared, different)]


def _goes_up(x: Fraction, low: Fraction, high: Fraction, index: int, rounding: str, negative: bool):
    if x == low:
        return False
    if x == high:
        return True
    twice, odd = 2 * x - low - high, index % 2 == 1
    return {
        "nearest_even": twice > 0 or (twice == 0 and odd), "nearest_away": twice >= 0,
        "nearest_zero": twice > 0, "toward_zero": False, "away_from_zero": True,
        "up": not negative, "down": negative, "to_odd": not odd,
    }[rounding]  # fmt: skip
