"""Names of formats: a table of the standard ones, and patterns for whole families."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise

from attrs import evolve

from ...catalog import normal
from ...errors import InvalidInput, UnknownName
from .block import BlockFormat, ScaleRule
from .floating import FloatFormat
from .posit import PositFormat
from .table import CodebookFormat, FixedFormat, PowerFormat

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

_BY_NAME = {f.name: f for f in _FLOATS}

NF4_VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of the normal distribution scaled to [-1, 1]: QLoRA (arXiv 2305.14314) appendix E."""


def dynamic_book() -> tuple[float, ...]:
    """The 256 values of the 8-bit dynamic tree type (arXiv 1511.04561).

    Each of seven decades 10^-6..10^0 is [0.1, 1] times it, halved once more per decade; a code
    means the middle of its interval. 0 and 1 complete the list.
    """
    magnitudes = []
    for i in range(7):
        edges = [0.1 + 0.9 * j / 2**i for j in range(2**i + 1)]
        middles = [(a + b) / 2 for a, b in pairwise(edges)]
        magnitudes += [10.0 ** (i - 6) * m for m in middles]
    return tuple(sorted([*(-m for m in magnitudes), 0.0, *magnitudes, 1.0]))


def _mx(name: str, element, block: int = 32, rule: ScaleRule = "floor") -> BlockFormat:
    return BlockFormat(
        name=name, element=element, scale=_BY_NAME["e8m0"], block=block, rule=rule,
        note="OCP Microscaling Formats v1.0",
    )  # fmt: skip


def _nvfp4(name: str, *, two_level: bool, floor: float = 0.0, reciprocal: bool = False):
    return BlockFormat(
        name=name, element=_BY_NAME["fp4-e2m1"], scale=_BY_NAME["fp8-e4m3"], block=16,
        two_level=two_level, scale_floor=floor, reciprocal=reciprocal,
        note="E2M1 with an E4M3 scale per 16 values" + (" and a tensor scale" * two_level),
    )  # fmt: skip


_MXINT8 = FixedFormat(name="mxint8-element", width=8, fraction_bits=6)
_NF4 = CodebookFormat(name="nf4-element", book=NF4_VALUES)

_OTHERS = (
    _mx("mxfp8-e4m3", _BY_NAME["fp8-e4m3"]), _mx("mxfp8-e5m2", _BY_NAME["fp8-e5m2"]),
    _mx("mxfp6-e3m2", _BY_NAME["fp6-e3m2"]), _mx("mxfp6-e2m3", _BY_NAME["fp6-e2m3"]),
    _mx("mxfp4", _BY_NAME["fp4-e2m1"]), _mx("mxint8", _MXINT8),
    _nvfp4("nvfp4", two_level=True), _nvfp4("nvfp4-one-level", two_level=False),
    _nvfp4("nvfp4-torchao", two_level=True, floor=2.0**-6, reciprocal=True),
    BlockFormat(
        name="nf4", element=_NF4, scale=_BY_NAME["fp32"], block=64,
        note="QLoRA NormalFloat, float32 scale per 64",
    ),
    CodebookFormat(name="dynamic8", book=dynamic_book(), note="8-bit dynamic tree"),
    *(
        FixedFormat(name=f"int{b}", width=b, note="two's complement integer")
        for b in (2, 3, 4, 5, 6, 8, 16)
    ),
    *(PositFormat(name=f"posit{n}", n=n, es=2, note="Posit standard 2022") for n in (8, 16, 32)),
    *(
        PositFormat(name=f"softposit{n}", n=n, es=es, note="SoftPosit")
        for n, es in ((8, 0), (16, 1), (32, 2))
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
    "fp4": "fp4-e2m1", "fp8-e8m0": "e8m0", "mxfp8": "mxfp8-e4m3", "mxfp4-e2m1": "mxfp4",
    "mxfp6": "mxfp6-e3m2", "nvfp4-two-level": "nvfp4",
}  # fmt: skip

_STANDARD = {f.name: f for f in (*_FLOATS, *_OTHERS)}
_EXMY = re.compile(r"^e(\d+)m(\d+)(fn|fnuz)?$")
_POSIT = re.compile(r"^posit(\d+)-es(\d)$")
_BFP = re.compile(r"^bfp(\d+)-n(\d+)$")
_INT = re.compile(r"^(u?)int(\d+)(?:-(?:g(\d+)|(channel)))?(-asym)?$")
_POWER = re.compile(r"^power(\d+)-a(\d*\.?\d+)$")
_FIXED = re.compile(r"^(u?)fixed(\d+)-f(\d+)$")
_SUFFIX = re.compile(r"^(mx\w+(?:-e\dm\d)?)-(floor|ceil|rceil|even)$")
_P3109 = re.compile(r"^(?:p3109-)?(?:binary|k)?(\d+)p(\d+)(s|u)(e|f)$")

PATTERNS = (
    "eXmY, eXmYfn (finite only), eXmYfnuz",
    "p3109-KpP(s|u)(e|f), for example p3109-8p4se",
    "positN-esE",
    "bfpW-nB (W-8 mantissa bits, 8-bit shared exponent, block B)",
    "intW-gB, intW-channel, with -asym for zero points",
    "fixedW-fF",
    "powerW-aA",
    "mx...-(floor|ceil|rceil|even)",
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
    if match := _POSIT.match(name):
        return PositFormat(name=name, n=int(match[1]), es=int(match[2]))
    if match := _FIXED.match(name):
        return FixedFormat(
            name=name, width=int(match[2]), fraction_bits=int(match[3]), signed=not match[1]
        )
    if match := _POWER.match(name):
        return PowerFormat(name=name, width=int(match[1]), exponent=float(match[2]))
    return _block_pattern(name)


def _block_pattern(name: str):
    if match := _BFP.match(name):
        width, block = int(match[1]) - 8, int(match[2])
        element = FixedFormat(name=f"int{width}", width=width, symmetric=True)
        return _mx(name, element, block)
    if match := _SUFFIX.match(name):
        base = _STANDARD.get(ALIASES.get(match[1], match[1]))
        return evolve(base, name=name, rule=match[2]) if base is not None else None
    if match := _INT.match(name):
        unsigned, width, group, channel, asymmetric = match.groups()
        symmetric = not asymmetric and not unsigned
        element = FixedFormat(
            name=f"{unsigned}int{width}", width=int(width), signed=not unsigned,
            symmetric=symmetric and bool(group or channel),
        )  # fmt: skip
        if not group and not channel:
            return element if not asymmetric else None
        return BlockFormat(
            name=name, element=element, scale=_BY_NAME["fp16"], block=int(group or 0),
            zero_point=bool(asymmetric), note="integers with a 16-bit scale per group",
        )  # fmt: skip
    return None


def names() -> tuple[str, ...]:
    """The standard format names, sorted."""
    return tuple(sorted(_STANDARD))


def load_float(name: str) -> FloatFormat:
    """The float format called `name`, as a scale or an element needs one.

    Raises
    ------
    UnknownName, InvalidInput
    """
    fmt = load(name)
    if not isinstance(fmt, FloatFormat):
        raise InvalidInput(f"'{fmt.name}' is no float format; one like fp32 or e8m0 is needed.")
    return fmt


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
