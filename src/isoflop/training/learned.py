"""A learned optimizer trained by persistent evolution strategies on small networks, in NumPy.

The rule is a small network run per parameter, as in Metz et al. 2022: features of the gradient, its
momenta and second moment and of the parameter, normalised over each tensor, go through one hidden
layer to a direction d and a magnitude m, and the parameter moves by -a d exp(b m). Tasks are
student networks that learn what random teachers answer. All particles are one batch of arrays.

References
----------
Metz et al. 2022, Practical tradeoffs between memory, compute, and performance in learned
optimizers, arXiv 2203.11860. Vicol et al. 2021, Unbiased Gradient Estimation in Unrolled
Computation Graphs with Persistent Evolution Strategies, arXiv 2112.13835.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from attrs import define, frozen

from ..cost.features import Array

INPUTS, HIDDEN, CLASSES = 8, 16, 4
"""Widths of students and teachers."""
SAMPLES = 32
DECAYS = np.array([0.5, 0.9, 0.99])
SQUARE_DECAY = 0.99
FEATURES = 4 + 2 * len(DECAYS) + 2
"""Gradient, parameter, inverse root of the second moment, gradient over that root; momenta, momenta
over the root; the step's number as tanh(t / 10) and tanh(t / 100)."""
STEP, SHARPNESS = 0.1, 0.1
"""Factors of the direction and of the magnitude in its exponent."""
SHAPES = ((INPUTS, HIDDEN), (1, HIDDEN), (HIDDEN, CLASSES), (1, CLASSES))
Weights = tuple[Array, ...]


@frozen(kw_only=True)
class Tasks:
    """As many tasks as students: their teachers' weights, shapes (tasks, ...)."""

    teacher: Weights

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> Tasks:
        """Random teachers."""
        return cls(teacher=tuple(
            2.0 * rng.standard_normal((count, *s)) / np.sqrt(s[0]) for s in SHAPES
        ))  # fmt: skip

    def samples(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Inputs (tasks, samples, inputs) and the classes that the teachers give them."""
        x = rng.standard_normal((len(self.teacher[0]), SAMPLES, INPUTS))
        return x, np.argmax(forward(self.teacher, x)[1], axis=-1)


def forward(weights: Weights, x: Array) -> tuple[Array, Array]:
    """Hidden activations and logits of a batch of two-layer networks."""
    a, b, c, d = weights
    hidden = np.tanh(x @ a + b)
    return hidden, hidden @ c + d


def loss_and_gradient(weights: Weights, x: Array, classes: Array) -> tuple[Array, Weights]:
    """Cross-entropy of each network, shape (tasks,), and its gradient."""
    hidden, logits = forward(weights, x)
    back = np.exp(logits - logits.max(axis=-1, keepdims=True))
    back /= back.sum(axis=-1, keepdims=True)
    chosen = np.take_along_axis(back, classes[..., None], axis=-1)
    loss = -np.log(np.maximum(chosen, 1e-30)).mean(axis=(1, 2))
    np.put_along_axis(back, classes[..., None], chosen - 1.0, axis=-1)
    back /= x.shape[1]
    inner = (back @ weights[2].transpose(0, 2, 1)) * (1.0 - hidden**2)
    return loss, (
        x.transpose(0, 2, 1) @ inner, inner.sum(axis=1, keepdims=True),
        hidden.transpose(0, 2, 1) @ back, back.sum(axis=1, keepdims=True),
    )  # fmt: skip


def initial(count: int, rng: np.random.Generator) -> Weights:
    """Students as they start: biases zero."""
    return tuple(
        rng.standard_normal((count, *s)) / np.sqrt(s[0]) if s[0] > 1 else np.zeros((count, *s))
        for s in SHAPES
    )


@define(kw_only=True)
class State:
    """Accumulators of a batch of students, an entry a tensor: momenta (..., decays), squares."""

    momenta: list[Array]
    squares: list[Array]
    step: int = 0

    @classmethod
    def zero(cls, weights: Weights) -> State:
        """Before the first step."""
        return cls(momenta=[np.zeros((*w.shape, len(DECAYS))) for w in weights],
                   squares=[np.zeros_like(w) for w in weights])  # fmt: skip

    def observe(self, gradients: Weights) -> None:
        """Add a gradient to the accumulators."""
        self.step += 1
        for i, g in enumerate(gradients):
            self.momenta[i] = DECAYS * self.momenta[i] + (1.0 - DECAYS) * g[..., None]
            self.squares[i] = SQUARE_DECAY * self.squares[i] + (1.0 - SQUARE_DECAY) * g * g

    def corrected(self, tensor: int) -> tuple[Array, Array]:
        """Momenta and the inverse root of the second moment, without their start at zero."""
        square = self.squares[tensor] / (1.0 - SQUARE_DECAY**self.step)
        return self.momenta[tensor] / (1.0 - DECAYS**self.step), 1.0 / (np.sqrt(square) + 1e-8)


Rule = Callable[[Weights, Weights, State], Weights]
"""Students after one step: of weights, gradients and the state, which has seen the gradients."""


def adam(rate: float) -> Rule:
    """Adam with decays 0.9 and 0.99."""

    def step(weights: Weights, gradients: Weights, state: State) -> Weights:
        del gradients
        moved = (state.corrected(i) for i in range(len(weights)))
        return tuple(w - rate * m[..., 1] * root for w, (m, root) in zip(weights, moved))

    return step


def cooled(rule: Callable[[float], Rule], rate: float, steps: int) -> Rule:
    """A rule whose rate falls to nothing as a half cosine over a run of so many steps."""

    def step(weights: Weights, gradients: Weights, state: State) -> Weights:
        share = 0.5 * (1.0 + np.cos(np.pi * (state.step - 1) / steps))
        return rule(rate * share)(weights, gradients, state)

    return step


def momentum(rate: float) -> Rule:
    """SGD with momentum 0.9, averaged."""

    def step(weights: Weights, gradients: Weights, state: State) -> Weights:
        del gradients
        return tuple(w - rate * m[..., 1] for w, m in zip(weights, state.momenta))

    return step


def rule_shapes(hidden: int) -> tuple[tuple[int, int], ...]:
    """Weights of a learned rule: features to hidden and its bias, hidden to two and its bias."""
    return (FEATURES, hidden), (1, hidden), (hidden, 2), (1, 2)


def rule_size(hidden: int) -> int:
    """Parameters of a learned rule."""
    return sum(a * b for a, b in rule_shapes(hidden))


def features(w: Array, g: Array, state: State, tensor: int) -> Array:
    """Inputs of the rule for one tensor: (particles, values, FEATURES).

    All but those over the root and the step's have mean square 1 over the tensor.
    """
    m, root = state.corrected(tensor)
    flat = (len(w), -1)
    plain = np.stack([g.reshape(flat), w.reshape(flat), root.reshape(flat)], axis=-1)
    plain = np.concatenate([plain, m.reshape(*flat, len(DECAYS))], axis=-1)
    plain = plain / np.sqrt((plain**2).mean(axis=1, keepdims=True) + 1e-16)
    # Ratios to the root say how steady a direction is; normalising would take that away.
    steady = np.concatenate([g[..., None], m], axis=-1) * root[..., None]
    steady = np.clip(steady.reshape(*flat, len(DECAYS) + 1), -10.0, 10.0)
    times = np.broadcast_to(np.tanh(state.step / np.array([10.0, 100.0])), (*plain.shape[:2], 2))
    return np.concatenate([plain, steady, times], axis=-1)


def learned(theta: Array, hidden: int) -> Rule:
    """A batch of learned rules, theta (particles, parameters), one a student."""
    parts, at = [], 0
    for a, b in rule_shapes(hidden):
        parts.append(theta[:, at : at + a * b].reshape(-1, a, b))
        at += a * b

    def step(weights: Weights, gradients: Weights, state: State) -> Weights:
        out = []
        for i, (w, g) in enumerate(zip(weights, gradients)):
            inner = np.maximum(features(w, g, state, i) @ parts[0] + parts[1], 0.0)
            moved = inner @ parts[2] + parts[3]
            size = STEP * np.exp(np.clip(SHARPNESS * moved[..., 1], -10.0, 10.0))
            out.append(w - (size * moved[..., 0]).reshape(w.shape))
        return tuple(out)

    return step


@define(kw_only=True)
class Run:
    """Students being trained on tasks, and how far they are."""

    tasks: Tasks
    weights: Weights
    state: State
    rng: np.random.Generator

    @classmethod
    def start(cls, count: int, rng: np.random.Generator, *, pairs: bool = False) -> Run:
        """`count` students on tasks of their own; with `pairs`, every two on the same."""
        kinds = count // 2 if pairs else count
        repeat = (lambda a: np.concatenate([a, a])) if pairs else (lambda a: a)
        tasks = Tasks(teacher=tuple(map(repeat, Tasks.draw(kinds, rng).teacher)))
        weights = tuple(map(repeat, initial(kinds, rng)))
        return cls(tasks=tasks, weights=weights, state=State.zero(weights), rng=rng)

    def advance(self, rule: Rule, steps: int, *, pairs: bool = False) -> Array:
        """Losses before each of some steps, shape (steps, students)."""
        losses = []
        for _ in range(steps):
            if pairs:
                half = Tasks(teacher=tuple(t[: len(t) // 2] for t in self.tasks.teacher))
                x, y = (np.concatenate([a, a]) for a in half.samples(self.rng))
            else:
                x, y = self.tasks.samples(self.rng)
            loss, gradients = loss_and_gradient(self.weights, x, y)
            self.state.observe(gradients)
            self.weights = rule(self.weights, gradients, self.state)
            losses.append(loss)
        return np.array(losses)


@frozen(kw_only=True)
class Evolution:
    """Settings of the outer training.

    Attributes
    ----------
    pairs : int
        Antithetic pairs of particles.
    unroll, horizon : int
        Inner steps of one estimate, and of a student's whole life.
    sigma, rate : float
        Standard deviation of the perturbations; step of the outer Adam.
    """

    pairs: int = 8
    unroll: int = 10
    horizon: int = 100
    sigma: float = 0.02
    rate: float = 0.01


def train_rule(
    hidden: int, updates: int, rng: np.random.Generator, evolution: Evolution | None = None
) -> tuple[Array, Array]:
    """Train a rule by PES: its parameters, and the mean loss of each outer update.

    Each pair shares task and samples under opposite perturbations. A particle keeps its student
    from one estimate to the next and accumulates its perturbations, so that estimates of a whole
    life's gradient are unbiased although each looks at a few steps alone.
    """
    e = evolution or Evolution()
    size = rule_size(hidden)
    theta = 0.5 * rng.standard_normal(size) / np.sqrt(hidden)
    theta[-2 * hidden - 2 :] *= 0.1  # a start that hardly moves
    run, seen = Run.start(2 * e.pairs, rng, pairs=True), np.zeros((e.pairs, size))
    first, second = np.zeros(size), np.zeros(size)
    curve = []
    for update in range(1, updates + 1):
        noise = e.sigma * rng.standard_normal((e.pairs, size))
        seen += noise
        both = theta + np.concatenate([noise, -noise])
        losses = run.advance(learned(both, hidden), e.unroll, pairs=True).mean(axis=0)
        losses = np.minimum(np.nan_to_num(losses, nan=10.0), 10.0)
        gain = (losses[: e.pairs] - losses[e.pairs :]) / 2.0
        gradient = (seen * gain[:, None]).mean(axis=0) / e.sigma**2
        gradient /= max(1.0, float(np.linalg.norm(gradient)))
        first += 0.1 * (gradient - first)
        second += 0.01 * (gradient**2 - second)
        shown = first / (1 - 0.9**update), second / (1 - 0.99**update)
        cooling = 0.5 * (1.0 + np.cos(np.pi * update / updates))
        theta = theta - e.rate * cooling * shown[0] / (np.sqrt(shown[1]) + 1e-8)
        curve.append(float(losses.mean()))
        if run.state.step >= e.horizon:
            run, seen = Run.start(2 * e.pairs, rng, pairs=True), np.zeros((e.pairs, size))
    return theta, np.array(curve)


def evaluate(rule: Rule, steps: int, tasks: int, seed: int) -> Array:
    """Mean loss before each step on fresh tasks, shape (steps,), the same for every rule."""
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore", invalid="ignore"):
        losses = Run.start(tasks, rng).advance(rule, steps)
    return np.minimum(np.nan_to_num(losses, nan=10.0), 10.0).mean(axis=1)
