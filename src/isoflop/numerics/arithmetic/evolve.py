"""Evolved approximations: straight-line programs that beat polynomials of the same operation count.

A program is a list of additions, subtractions, products and divisions of the argument, constants
and earlier results. Evolution changes its structure; constants are fitted each time, by
Levenberg-Marquardt on complex-step derivatives with Lawson weights, which drive the largest
relative error down rather than its mean square.

References
----------
Real et al. 2023, AutoNumerics-Zero: Automated Discovery of State-of-the-Art Mathematical Functions,
arXiv 2312.08472.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from attrs import frozen

from ...errors import InvalidInput

FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, float]] = {
    "exp2": (np.exp2, 0.0, 1.0),
    "exp": (np.exp, -0.5 * math.log(2.0), 0.5 * math.log(2.0)),
    "log2": (np.log2, 1.0, 2.0),
    "sqrt": (np.sqrt, 1.0, 4.0),
    "rsqrt": (lambda x: 1.0 / np.sqrt(x), 1.0, 4.0),
    "sigmoid": (lambda x: 1.0 / (1.0 + np.exp(-x)), 0.0, 4.0),
    "tanh": (np.tanh, 0.25, 2.0),
}
"""Functions on the interval their range reduction leaves. log2's zero at 1 makes its error absolute
there; see `Target`."""
NODES = 48
ISLAND = 2500
"""Candidates of one population, after which another starts afresh."""
TRIES = 6
"""Starts from which the constants of one structure are fitted, over its appearances."""
CHECKS = 4001
STEP = 1e-30
ARGUMENT = -1
"""Operand index of the argument; constants are -2, -3, ...; results of operations 0, 1, ..."""
SYMBOLS = ("+", "-", "*", "/")


@frozen(kw_only=True)
class Program:
    """Operations in order, each (symbol, left operand, right operand); the last is the result."""

    operations: tuple[tuple[int, int, int], ...]

    @property
    def constants(self) -> int:
        """How many constants it has."""
        used = [k for _, a, b in self.live for k in (a, b) if k < ARGUMENT]
        return len(used)

    @property
    def live(self) -> tuple[tuple[int, int, int], ...]:
        """Operations that the result depends on, renumbered; every use of a constant is its own."""
        n = len(self.operations)
        wanted = {n - 1}
        for i in range(n - 1, -1, -1):
            if i in wanted:
                wanted |= {k for k in self.operations[i][1:] if k >= 0}
        place = {old: new for new, old in enumerate(sorted(wanted))}
        out, next_constant = [], -2
        for old in sorted(wanted):
            symbol, *operands = self.operations[old]
            renamed = []
            for k in operands:
                if k >= 0:
                    renamed.append(place[k])
                elif k == ARGUMENT:
                    renamed.append(k)
                else:
                    renamed.append(next_constant)
                    next_constant -= 1
            out.append((symbol, *renamed))
        return tuple(out)  # type: ignore[return-value]

    def evaluate(self, x: np.ndarray, constants: np.ndarray) -> np.ndarray:
        """Result at `x` (n,), for constants of shape (..., c)."""
        constants = np.asarray(constants)
        results: list[np.ndarray] = []

        def operand(k: int) -> np.ndarray:
            if k == ARGUMENT:
                return np.broadcast_to(x, (*constants.shape[:-1], len(x)))
            if k < ARGUMENT:
                return constants[..., -2 - k, None]
            return results[k]

        with np.errstate(all="ignore"):
            for symbol, a, b in self.live:
                p, q = operand(a), operand(b)
                results.append(
                    p + q if symbol == 0 else p - q if symbol == 1 else p * q if symbol == 2
                    else p / q
                )  # fmt: skip
        return np.broadcast_to(results[-1], (*constants.shape[:-1], len(x)))

    def code(self, constants: np.ndarray, name: str = "f") -> str:
        """A Python function of the program."""
        lines = [f"def {name}(x):"]

        def operand(k: int) -> str:
            if k == ARGUMENT:
                return "x"
            return f"{constants[-2 - k]:.9g}" if k < ARGUMENT else f"t{k}"

        live = self.live
        for i, (symbol, a, b) in enumerate(live):
            text = f"{operand(a)} {SYMBOLS[symbol]} {operand(b)}"
            lines.append(f"    return {text}" if i == len(live) - 1 else f"    t{i} = {text}")
        return "\n".join(lines)


@frozen(kw_only=True)
class Found:
    """A fitted program.

    Attributes
    ----------
    error : float
        Largest relative error over the interval, in float64.
    float32_error : float
        The same with every operation in float32, which adds its own rounding.
    """

    program: Program
    constants: np.ndarray
    error: float
    float32_error: float
    evaluated: int = 0

    @property
    def operations(self) -> int:
        """Operations that count."""
        return len(self.program.live)


@frozen(kw_only=True)
class Target:
    """A function on an interval, at Chebyshev nodes and on a dense check."""

    name: str

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and values for fitting."""
        f, low, high = FUNCTIONS[self.name]
        k = np.arange(NODES)
        x = 0.5 * (low + high) - 0.5 * (high - low) * np.cos((2 * k + 1) * np.pi / (2 * NODES))
        return x, f(x)

    def check(self) -> tuple[np.ndarray, np.ndarray]:
        """Dense points and values for the error."""
        f, low, high = FUNCTIONS[self.name]
        x = np.linspace(low, high, CHECKS)
        return x, f(x)

    def scale(self, y: np.ndarray) -> np.ndarray:
        """What errors are divided by: the value, or 1 where the function has a zero."""
        return np.ones_like(y) if self.name == "log2" else np.abs(y)


def fit_constants(
    program: Program, target: Target, start: np.ndarray, rounds: int = 3, steps: int = 12
) -> tuple[np.ndarray, float]:
    """Constants that make the largest relative error small, and the error at the nodes."""
    x, y = target.points()
    scale = target.scale(y)
    c = np.asarray(start, float)
    weights = np.ones(len(x))
    best, best_error = c, np.inf
    for _ in range(rounds):
        c = _levenberg(program, x, y, scale, weights, c, steps)
        residual = np.abs(program.evaluate(x, c) - y) / scale
        if not np.all(np.isfinite(residual)):
            break
        if residual.max() < best_error:
            best, best_error = c, float(residual.max())
        if residual.max() == 0.0:
            break
        weights = weights * np.maximum(residual / residual.max(), 0.05)
        weights /= weights.mean()
    return best, best_error


def _levenberg(
    program: Program, x: np.ndarray, y: np.ndarray, scale: np.ndarray, weights: np.ndarray,
    c: np.ndarray, steps: int,
) -> np.ndarray:  # fmt: skip
    root = np.sqrt(weights) / scale
    damping = 1e-3

    def residual(z: np.ndarray) -> np.ndarray:
        return root * (program.evaluate(x, z) - y)

    r = residual(c)
    cost = float(r @ r)
    if not math.isfinite(cost):
        return c
    for _ in range(steps):
        shifted = c[None, :] + 1j * STEP * np.eye(len(c))
        jacobian = (root * np.imag(program.evaluate(x, shifted)) / STEP).T
        if not np.all(np.isfinite(jacobian)):
            return c
        normal, slope = jacobian.T @ jacobian, jacobian.T @ r
        for _ in range(4):
            try:
                step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-12), -slope)
            except np.linalg.LinAlgError:
                damping *= 10.0
                continue
            trial = residual(c + step)
            value = float(trial @ trial)
            if math.isfinite(value) and value < cost:
                done = cost - value < 1e-12 * cost
                c, r, cost, damping = c + step, trial, value, max(damping / 5.0, 1e-12)
                if done:
                    return c
                break
            damping *= 8.0
        else:
            return c
    return c


def finish(program: Program, target: Target, start: np.ndarray, evaluated: int = 0) -> Found:
    """Fit with patience and measure the error densely."""
    c, _ = fit_constants(program, target, start, rounds=25, steps=30)
    x, y = target.check()
    scale = target.scale(y)
    error = np.abs(program.evaluate(x, c) - y) / scale
    with np.errstate(all="ignore"):
        low = program.evaluate(x.astype(np.float32), c.astype(np.float32)).astype(float)
    single = np.abs(low - y) / scale
    return Found(
        program=program, constants=c, error=float(np.max(error)), evaluated=evaluated,
        float32_error=float(np.max(single)),
    )  # fmt: skip


def horner(operations: int) -> Program:
    """The polynomial that Horner's rule evaluates in at most `operations` operations."""
    degree = max(1, operations // 2)
    out: list[tuple[int, int, int]] = []
    for i in range(degree):
        out.append((2, ARGUMENT, -2 if i == 0 else len(out) - 1))
        out.append((0, len(out) - 1, -2))
    return Program(operations=tuple(out))


def minimax_polynomial(target: Target, operations: int) -> Found:
    """The best polynomial of the same operation count: the baseline."""
    program = horner(operations)
    x, y = target.points()
    degree = len(program.operations) // 2
    values = np.polynomial.polynomial.polyfit(x, y, degree)[::-1]
    return finish(program, target, values)


def _mutate(program: Program, size: int, rng: np.random.Generator) -> Program:
    operations = list(program.operations)
    for _ in range(1 + int(rng.random() < 0.4)):
        i = int(rng.integers(size))
        symbol, a, b = operations[i]
        what = rng.random()
        if what < 0.35:
            symbol = int(rng.integers(4))
        elif what < 0.67:
            a = _operand(i, rng)
        else:
            b = _operand(i, rng)
        operations[i] = (symbol, a, b)
    return Program(operations=tuple(operations))


def _operand(i: int, rng: np.random.Generator) -> int:
    kind = rng.random()
    if kind < 0.3:
        return ARGUMENT
    if kind < 0.55 or i == 0:
        return -2
    return int(rng.integers(max(0, i - 3), i))


def evolve(
    name: str, operations: int, *, budget: int = 10_000, population: int = 40, seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Found:  # fmt: skip
    """Search programs of at most `operations` operations for the smallest largest error.

    Regularised evolution: the oldest member leaves, tournaments choose parents; half of the
    population begins at the polynomial, the rest at random.

    Raises
    ------
    InvalidInput
        For an unknown function or fewer than two operations.
    """
    if name not in FUNCTIONS:
        raise InvalidInput(f"'{name}' is none of the functions {', '.join(FUNCTIONS)}.")
    if not 2 <= operations <= 24:
        raise InvalidInput(f"Programs have between 2 and 24 operations, not {operations}.")
    if budget < population:
        raise InvalidInput(f"A budget of {budget} is below the population of {population}.")
    target = Target(name=name)
    rng = np.random.default_rng(seed)
    base = horner(operations)
    size = max(operations, len(base.operations))
    filler = [(2, ARGUMENT, -2)] * (size - len(base.operations))
    shifted = tuple(
        (s, a + len(filler) if a >= 0 else a, b + len(filler) if b >= 0 else b)
        for s, a, b in base.operations
    )
    seeded = Program(operations=(*filler, *shifted))
    pool: list[tuple[float, Program, np.ndarray]] = []
    best: tuple[float, Program, np.ndarray] | None = None
    tries: dict[tuple, int] = {}
    known: dict[tuple, tuple[float, np.ndarray]] = {}
    for count in range(budget):
        island = count % ISLAND
        if island == 0:
            pool = []  # a fresh population: structures that grew from one start stop improving
        if island < population // 4:
            child = seeded
            for _ in range(island + 1):
                child = _mutate(child, size, rng)
        elif island < population:
            child = Program(operations=tuple(
                (int(rng.integers(4)), _operand(i, rng), _operand(i, rng)) for i in range(size)
            ))  # fmt: skip
        else:
            picks = rng.integers(len(pool), size=4)
            parent = min((pool[int(p)] for p in picks), key=lambda m: m[0])
            child = _mutate(parent[1], size, rng)
        key = child.live
        error, constants = known.get(key, (np.inf, np.zeros(0)))
        allowed = len(key) <= operations and _uses_argument(child)
        # Fits have several minima: a structure is fitted again, from other starts, a few times.
        if allowed and tries.get(key, 0) < TRIES:
            tries[key] = tries.get(key, 0) + 1
            c, e = fit_constants(child, target, rng.normal(0.0, 1.5, child.constants))
            if e < error:
                error, constants = e, c
                known[key] = (e, c)
        member = (float(error), child, constants)
        pool.append(member)
        if len(pool) > population:
            pool.pop(0)
        if len(constants) and math.isfinite(error) and (best is None or error < best[0]):
            best = member
        if progress is not None:
            progress((count + 1) / budget)
    if best is None:
        raise InvalidInput("The search found no program: give it a larger budget.")
    return finish(best[1], target, best[2], evaluated=budget)


def _uses_argument(program: Program) -> bool:
    return any(ARGUMENT in (a, b) for _, a, b in program.live)
