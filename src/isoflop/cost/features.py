"""What the cost of a step depends on: a batch, and its feature vector phi.

The cost of one forward pass is linear in a few features of the batch (DESIGN: a forward pass is
a matrix). A `Batch` holds any number of steps at once, one per array element.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import field, frozen
from numpy.typing import ArrayLike, NDArray

from ..errors import InvalidInput

Array = NDArray[Any]


def _array(value: ArrayLike) -> Array:
    return np.asarray(value, dtype=float)


_ZERO = np.zeros(())


@frozen(kw_only=True, eq=False)
class Batch:
    """One step, or an array of steps, as one rank of the attention group sees it.

    All fields broadcast against each other; each element is one step.

    Attributes
    ----------
    decode_sequences : array
        Sequences that produce one token each.
    decode_context : array
        Mean tokens already cached per decoding sequence.
    prefill_sequences : array
        Sequences whose prompt (or a chunk of it) is processed.
    prefill_tokens : array
        New tokens per such sequence.
    prefill_prior : array
        Tokens of it already cached (the prefix before the chunk).
    sampled_rows : array or None
        Rows that go through the output head; None: one per sequence.
    shape : tuple of int
        Shape of the array of steps.
    """

    decode_sequences: Array = field(default=_ZERO, converter=_array)
    decode_context: Array = field(default=_ZERO, converter=_array)
    prefill_sequences: Array = field(default=_ZERO, converter=_array)
    prefill_tokens: Array = field(default=_ZERO, converter=_array)
    prefill_prior: Array = field(default=_ZERO, converter=_array)
    sampled_rows: Array | None = None
    shape: tuple[int, ...] = field(init=False)
    _features: dict[str, Array] = field(init=False, factory=dict, repr=False)
    _content: tuple[object, ...] | None = field(init=False, default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        for name in (
            "decode_sequences", "decode_context",
            "prefill_sequences", "prefill_tokens", "prefill_prior",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is _ZERO:
                continue
            if not np.all(np.isfinite(value)) or np.any(value < 0):
                raise InvalidInput(
                    f"The batch's {name.replace('_', ' ')} must be finite and not negative."
                )

        shape = np.broadcast_shapes(
            self.decode_sequences.shape, self.decode_context.shape,
            self.prefill_sequences.shape, self.prefill_tokens.shape, self.prefill_prior.shape,
        )  # fmt: skip
        object.__setattr__(self, "shape", shape)

    @property
    def tokens(self) -> Array:
        """Tokens that pass through the layers."""
        return self.decode_sequences + self.prefill_sequences * self.prefill_tokens

    def scaled(self, factor: float) -> Batch:
        """The same batch with `factor` times the sequences."""
        rows = None if self.sampled_rows is None else self.sampled_rows * factor
        return Batch(
            decode_sequences=self.decode_sequences * factor,
            decode_context=self.decode_context,
            prefill_sequences=self.prefill_sequences * factor,
            prefill_tokens=self.prefill_tokens,
            prefill_prior=self.prefill_prior,
            sampled_rows=rows,
        )

    @property
    def content(self) -> tuple[object, ...]:
        """All of it, to be compared and hashed; equal ones price alike."""
        if self._content is None:
            parts = (
                self.decode_sequences, self.decode_context, self.prefill_sequences,
                self.prefill_tokens, self.prefill_prior, self.sampled_rows,
            )  # fmt: skip
            content = tuple(
                None if v is None else (np.shape(v), np.asarray(v).tobytes()) for v in parts
            )
            object.__setattr__(self, "_content", content)
            return content
        return self._content

    def feature(self, name: str) -> Array:
        """The value of one feature, broadcast to `shape`.

        Names: `one`, `tokens`, `decode_tokens`, `prefill_tokens`, `sequences`,
        `decode_sequences`, `prefill_sequences`, `rows`, `kv_decode:W`, `kv_prefill:W`,
        `pairs_decode:W`, `pairs_prefill:W`, `pairs_full:W` for a window of W tokens (0: none) and
        `experts:E:k:s` for expected distinct experts of E touched by s times the tokens with k
        each.
        """
        known = self._features.get(name)
        if known is None:
            head, *arguments = name.split(":")
            numbers = [float(a) for a in arguments]
            value = np.asarray(_FEATURES[head](self, *numbers), dtype=float)
            if value.shape != self.shape:
                value = np.broadcast_to(value, self.shape)
            known = self._features[name] = value
        return known


def pairs(queries: ArrayLike, prior: ArrayLike, window: float = 0.0) -> Array:
    """Causal query x key pairs of `queries` new tokens after `prior` cached ones.

    The i-th query (from 1) sees min(prior + i, window) keys, itself included; window 0 is full
    attention. Closed form of the sum over i.
    """
    q, c = _array(queries), _array(prior)
    full = q * c + q * (q + 1.0) / 2.0
    if not window:
        return full
    # The first `short` queries still see all their keys; the rest see `window` each.
    short = np.clip(window - c, 0.0, q)
    return short * c + short * (short + 1.0) / 2.0 + (q - short) * window


def keys(queries: ArrayLike, prior: ArrayLike, window: float = 0.0) -> Array:
    """Distinct keys that `queries` new tokens after `prior` cached ones read."""
    q, c = _array(queries), _array(prior)
    return c + q if not window else np.minimum(c, np.maximum(window - 1.0, 0.0)) + q


def experts_touched(tokens: ArrayLike, experts: float, per_token: float) -> Array:
    """Expected distinct experts that `tokens` tokens visit under uniform routing.

    E (1 - (1 - k/E)^T): each token misses a given expert with probability 1 - k/E.
    """
    t = _array(tokens)
    if per_token >= experts:
        return np.where(t > 0, float(experts), 0.0)
    return experts * -np.expm1(t * np.log1p(-per_token / experts))


_FEATURES = {
    "one": lambda b: np.ones(b.shape),
    "tokens": lambda b: b.tokens,
    "decode_tokens": lambda b: b.decode_sequences,
    "prefill_tokens": lambda b: b.prefill_sequences * b.prefill_tokens,
    "sequences": lambda b: b.decode_sequences + b.prefill_sequences,
    "decode_sequences": lambda b: b.decode_sequences,
    "prefill_sequences": lambda b: b.prefill_sequences,
    "rows": lambda b: (
        b.decode_sequences + b.prefill_sequences if b.sampled_rows is None else b.sampled_rows
    ),
    "kv_decode": lambda b, w: b.decode_sequences * keys(1.0, b.decode_context, w),
    "kv_prefill": lambda b, w: b.prefill_sequences * keys(b.prefill_tokens, b.prefill_prior, w),
    "pairs_decode": lambda b, w: b.decode_sequences * pairs(1.0, b.decode_context, w),
    "pairs_prefill": lambda b, w: b.prefill_sequences * pairs(b.prefill_tokens, b.prefill_prior, w),
    "pairs_full": lambda b, w: (
        b.prefill_sequences
        * b.prefill_tokens
        * (np.minimum(b.prefill_tokens, w) if w else b.prefill_tokens)
    ),
    "experts": lambda b, e, k, s: experts_touched(b.tokens * s, e, k),
}
