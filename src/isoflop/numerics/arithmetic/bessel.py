"""Logarithms of modified Bessel functions, accurate where the functions under- or overflow.

log I_v(x) and log K_v(x) for v >= 0, x > 0 from three expressions, tried in this order: the
asymptotic series in 1/x (large x, moderate v), Debye's uniform expansion in 1/v (large v or x), and
a fallback (the power series summed in logarithms from its largest term for I; the integral
K_v(x) = int_0^inf exp(-x cosh t) cosh(v t) dt for K).

References
----------
Plesner, Sorensen, Hauberg, Accurate Computation of the Logarithm of Modified Bessel Functions on
GPUs, arXiv 2409.08729; NIST Digital Library of Mathematical Functions 10.40, 10.41, 10.25, 10.32.
The thresholds between expressions were checked here against 40-digit arithmetic.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np

from ...errors import InvalidInput

ASYMPTOTIC = ((1400.0, 3.05, 3), (30.0, 15.3919, 20))
"""(x above, v below, terms) of the expansion in 1/x."""

DEBYE = ((274.2377, 163.6993, 4), (84.4153, 46.9971, 6), (35.9074, 20.1534, 9),
         (19.6931, 12.6964, 13))  # fmt: skip
"""(x above or, v above, terms) of the uniform expansion."""

SERIES_TERMS = 120
SIMPSON_NODES = 600
LOG_TAIL = 45.0
"""The integrand of K is dropped where it is e^-45 of its peak."""


@cache
def debye_polynomials(count: int) -> tuple[tuple[float, ...], ...]:
    """U_0..U_count of DLMF 10.41.9 as coefficients of rising powers of p."""
    u = [[Fraction(1)]]
    for _ in range(count):
        p = u[-1]
        nxt = [Fraction(0)] * (len(p) + 3)
        for i, c in enumerate(p):
            if i:  # (p^2 - p^4)/2 * derivative
                nxt[i + 1] += c * i / 2
                nxt[i + 3] -= c * i / 2
            nxt[i + 1] += c / (8 * (i + 1))
            nxt[i + 3] -= 5 * c / (8 * (i + 3))
        u.append(nxt)
    return tuple(tuple(float(c) for c in p) for p in u)


def _asymptotic(v, x, terms: int, sign: int):
    total, term = np.zeros_like(x), np.ones_like(x)
    for k in range(1, terms + 1):
        term = sign * term * (4 * v * v - (2 * k - 1) ** 2) / (8 * k * x)
        total = total + term
    return np.log1p(total)


def _debye(v, x, terms: int, sign: int):
    r = np.hypot(v, x)  # v sqrt(1 + (x/v)^2), also for v = 0
    p = v / r
    # U_k(p) / v^k as a polynomial of p / v = 1 / r, so that v = 0 is no exception.
    total = np.zeros_like(x)
    for k, polynomial in enumerate(debye_polynomials(terms)):
        if k == 0:
            continue
        value = np.zeros_like(x)
        for c in reversed(polynomial[k:]):
            value = value * p + c
        total = total + sign**k * value / r**k
    eta = r + v * np.log(np.where(v > 0, x / (v + r), 1.0))
    return eta, r, np.log1p(total)


def _log_i_series(v, x):
    half = np.log(x / 2)
    k = np.arange(SERIES_TERMS)[:, None]
    logs = 2 * k * half - _log_gamma(k + 1.0) - _log_gamma(k + 1.0 + v)
    peak = logs.max(0)
    return v * half + peak + np.log(np.exp(logs - peak).sum(0))


def _log_gamma(z):
    from scipy.special import gammaln

    return gammaln(z)


def _log_k_integral(v, x):
    # The exponent v t - x cosh t peaks at asinh(v / x); integrate where it is not negligible.
    peak = np.arcsinh(v / x)
    top = v * peak - x * np.cosh(peak)
    end = peak + 1.0
    for _ in range(60):
        end = np.where(v * end - x * np.cosh(end) > top - LOG_TAIL, end + 0.5, end)
    t = np.linspace(0.0, 1.0, SIMPSON_NODES + 1)[:, None] * end
    log_cosh = v * t + np.log1p(np.exp(-2 * v * t)) - np.log(2.0)
    values = np.exp(-x * np.cosh(t) + log_cosh - top)
    weights = np.where(np.arange(SIMPSON_NODES + 1) % 2 == 1, 4.0, 2.0)
    weights[[0, -1]] = 1.0
    return top + np.log((weights[:, None] * values).sum(0) * end / (3 * SIMPSON_NODES))


def _arguments(v, x):
    v, x = np.broadcast_arrays(np.asarray(v, float), np.asarray(x, float))
    if not (np.all(np.isfinite(v)) and np.all(np.isfinite(x)) and np.all(v >= 0) and np.all(x > 0)):
        raise InvalidInput("Bessel arguments must be finite with v >= 0 and x > 0.")
    return v.ravel(), x.ravel(), v.shape


def _evaluate(v, x, kind: str):
    v, x, shape = _arguments(v, x)
    result = np.empty_like(x)
    left = np.ones(x.shape, bool)
    is_i = kind == "i"
    for above, below, terms in ASYMPTOTIC:
        at = left & (x > above) & (v < below)
        log_sum = _asymptotic(v[at], x[at], terms, -1 if is_i else 1)
        lead = x[at] - 0.5 * np.log(2 * np.pi * x[at])
        result[at] = (lead if is_i else -x[at] + 0.5 * np.log(np.pi / (2 * x[at]))) + log_sum
        left &= ~at
    for x_above, v_above, terms in DEBYE:
        at = left & ((x > x_above) | (v > v_above))
        eta, r, log_sum = _debye(v[at], x[at], terms, 1 if is_i else -1)
        lead = eta - 0.5 * np.log(2 * np.pi * r) if is_i else -eta + 0.5 * np.log(np.pi / (2 * r))
        result[at] = lead + log_sum
        left &= ~at
    if left.any():
        result[left] = (_log_i_series if is_i else _log_k_integral)(v[left], x[left])
    return result.reshape(shape)


def log_i(v, x) -> np.ndarray:
    """log of the modified Bessel function of the first kind, v >= 0 and x > 0, float64."""
    return _evaluate(v, x, "i")


def log_k(v, x) -> np.ndarray:
    """log of the modified Bessel function of the second kind, v >= 0 and x > 0, float64."""
    return _evaluate(v, x, "k")
