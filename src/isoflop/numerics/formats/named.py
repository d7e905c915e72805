"""Names of formats: a table of the standard ones, and patterns for whole families."""

from __future__ import annotations

import re
from functools import cache

from ...catalog import normal
from ...errors import InvalidInput, UnknownName
from .floating import FloatFormat

_FINITE = {"infinity": False, "nan": "none"}
_FNUZ = {"infinity": False, "nan": "negative_zero", "negative_zero": False}


def _float(name: str, x: int, y: int, note: str = "", **policy) -> FloatFormat:
    return FloatFormat(name=name, exponent_bits=x, mantissa_bits=y, note=note, **policy)


_FLOATS = (
    _float("fp64", 11, 52, "IEEE 754 binary64"),
    _float("fp32", 8, 23, "IEEE 754 binary32"),
    _float("tf32", 8, 10, "NVIDIA TensorFloat-32, 19 bits kept of a 32-bit word"),
    _float("bf16", 8, 7, "bfloat16"),
    _float("fp16", 5, 10, "IEEE 754 binary16"),
    _float("fp8-e4m3", 4, 3, "OCP OFP8 E4M3 (fn): no infinity", infinity=False, nan="top"),
    _float("fp8-e5m2", 5, 2, "OCP OFP8 E5M2, IEEE-like"),
    _float("fp8-e4m3-ieee", 4, 3, "E4M3 with IEEE infinities and NaN"),
    _float("fp8-e3m4", 3, 4, "E3M4 with IEEE infinities and NaN"),
    _float("fp8-e4m3fnuz", 4, 3, "E4M3, bias 8, one NaN, no minus zero", bias=8, **_FNUZ),
    _float("fp8-e5m2fnuz", 5, 2, "E5M2, bias 16, one NaN, no minus zero", bias=16, **_FNUZ),
    _float("fp8-e4m3b11fnuz", 4, 3, "E4M3, bias 11, one NaN, no minus zero", bias=11, **_FNUZ),
    _float("fp6-e3m2", 3, 2, "OCP MX FP6 E3M2, finite only", **_FINITE),
    _float("fp6-e2m3", 2, 3, "OCP MX FP6 E2M3, finite only", **_FINITE),
    _float("fp4-e2m1", 2, 1, "OCP MX FP4 E2M1, finite only", **_FINITE),
    _float(
        "e8m0", 8, 0, "OCP MX scale: unsigned power of two, no zero", bias=127, signed=False,
        zero=False, subnormals=False, negative_zero=False, infinity=False, nan="top",
    ),
)  # fmt: skip

ALIASES = {
    "bfloat16": "bf16", "binary16": "fp16", "float16": "fp16", "half": "fp16",
    "binary32": "fp32", "float32": "fp32", "binary64": "fp64", "float64": "fp64",
    "e4m3": "fp8-e4m3", "e4m3fn": "fp8-e4m3", "float8-e4m3fn": "fp8-e4m3", "fp8": "fp8-e4m3",
    "fp8-e4m3fn": "fp8-e4m3", "e5m2": "fp8-e5m2", "float8-e5m2": "fp8-e5m2",
    "float8-e4m3": "fp8-e4m3-ieee", "float8-e3m4": "fp8-e3m4",
    "float8-e4m3fnuz": "fp8-e4m3fnuz", "float8-e5m2fnuz": "fp8-e5m2fnuz",
    "float8-e4m3b11fnuz": "fp8-e4m3b11fnuz", "float8-e8m0fnu": "e8m0", "e8m0fnu": "e8m0",
    "e3m2": "fp6-e3m2", "float6-e3m2fn": "fp6-e3m2", "e2m3": "fp6-e2m3",
    "float6-e2m3fn": "fp6-e2m3", "e2m1": "fp4-e2m1", "float4-e2m1fn": "fp4-e2m1",
    "fp4": "fp4-e2m1", "fp8-e8m0": "e8m0",
}  # fmt: skip

_STANDARD = {f.name: f for f in _FLOATS}
_EXMY = re.compile(r"^e(\d+)m(\d+)(fn|fnuz)?$")
_P3109 = re.compile(r"^(?:p3109-)?(?:binary|k)?(\d+)p(\d+)(s|u)(e|f)$")

PATTERNS = (
    "eXmY, eXmYfn (finite only), eXmYfnuz",
    "p3109-KpP(s|u)(e|f), for example p3109-8p4se",
)


def p3109(k: int, p: int, *, signed: bool = True, extended: bool = True) -> FloatFormat:
    """The IEEE P3109 format binaryKpP: K bits in all, precision P, with or without infinities.

    Signed formats have bias floor(2^(K-P-1)) and NaN at the code of minus zero; unsigned ones
    have bias 2^(K-P) and NaN at the all-ones code. K is 2 to 16.
    """
    x = k - p + (0 if signed else 1)
    name = f"p3109-{k}p{p}{'s' if signed else 'u'}{'e' if extended else 'f'}"
    if not (2 <= k <= 16 and p >= 1 and x >= 0):
        raise InvalidInput(
            f"'{name}' is no P3109 format supported here: K is 2 to 16 and P from 1 to K."
        )
    return FloatFormat(
        name=name, exponent_bits=x, mantissa_bits=p - 1, signed=signed, negative_zero=False,
        bias=2 ** (k - p) // 2 if signed else 2 ** (k - p), infinity=extended,
        nan="negative_zero" if signed else "top", note="IEEE P3109 interim report",
    )  # fmt: skip


def _pattern(name: str):
    if match := _EXMY.match(name):
        x, y, kind = int(match[1]), int(match[2]), match[3]
        if kind == "fn":
            return _float(name, x, y, "finite only", **_FINITE)
        if kind == "fnuz":
            bias = 2 ** (x - 1)
            return _float(name, x, y, "no infinity, one NaN, no -0", bias=bias, **_FNUZ)
        return _float(name, x, y, "IEEE-like")
    if match := _P3109.match(name):
        return p3109(int(match[1]), int(match[2]), signed=match[3] == "s", extended=match[4] == "e")
    return None


def names() -> tuple[str, ...]:
    """The standard format names, sorted."""
    return tuple(sorted(_STANDARD))


@cache
def load(name: str):
    """The format called `name`: a standard name, an alias or a family pattern.

    Raises
    ------
    UnknownName
        With the nearest names.
    """
    wanted = normal(name)
    wanted = ALIASES.get(wanted, wanted)
    found = _STANDARD.get(wanted) or _pattern(wanted)
    if found is None:
        raise UnknownName(
            "number format", name, [*_STANDARD, *ALIASES], f"Patterns: {'; '.join(PATTERNS)}."
        )
    return found
