"""Which of two parties computed wrongly, found by comparing hashes and redoing one operator.

Two parties run the same program with reproducible operators and keep a hash per operator, chained
so that one hash speaks for everything before it. Where their last hashes differ, bisection over the
chain finds the first operator they disagree about in ceil(log2 n) exchanges; its inputs, agreed by
both, are then enough for a referee to redo that one operator.

References
----------
Verde, arXiv 2502.19405: refereed delegation over a trace of operators, made possible by bitwise
reproducible ones (`reproducible`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from ...errors import InvalidInput


@frozen(kw_only=True)
class Step:
    """One operator of a program.

    Attributes
    ----------
    name : str
    run : callable
        From arrays to one array, the same bits wherever it runs.
    inputs : tuple of int
        Places of its operands: 0 to k - 1 are the program's inputs, k + i is step i's output.
    """

    name: str
    run: Callable[..., np.ndarray]
    inputs: tuple[int, ...]


@frozen(kw_only=True, eq=False)
class Trace:
    """What a party keeps: every value, its hash, and the chain of hashes.

    Attributes
    ----------
    values : list of np.ndarray
        The program's inputs, then each step's output.
    hashes : list of bytes
        Of `values`, 32 bytes each.
    chain : list of bytes
        chain[i] covers the inputs and the outputs of steps 0 to i - 1.
    """

    values: list[np.ndarray]
    hashes: list[bytes]
    chain: list[bytes]


@frozen(kw_only=True)
class Verdict:
    """A settled dispute.

    Attributes
    ----------
    step : int or None
        The first step the parties disagree about; None where they agree.
    exchanges : int
        Pairs of hashes compared.
    honest : tuple of bool
        Whether the first and the second party's output of that step is right.
    """

    step: int | None
    exchanges: int
    honest: tuple[bool, bool]


def fingerprint(array: np.ndarray) -> bytes:
    """SHA-256 of an array's type, shape and bits."""
    data = np.ascontiguousarray(array)
    head = f"{data.dtype.str}{data.shape}".encode()
    return hashlib.sha256(head + data.tobytes()).digest()


def execute(
    program: Sequence[Step],
    inputs: Sequence[np.ndarray],
    tamper: Callable[[int, np.ndarray], np.ndarray] | None = None,
) -> Trace:
    """Run a program and keep its trace; `tamper(step, output)` is for parties that cheat."""
    values = [np.asarray(x) for x in inputs]
    hashes = [fingerprint(x) for x in values]
    chain = [hashlib.sha256(b"".join(hashes)).digest()]
    for i, step in enumerate(program):
        if any(not 0 <= j < len(values) for j in step.inputs):
            raise InvalidInput(
                f"Step {i} ('{step.name}') reads places {step.inputs}; only {len(values)} values "
                "exist before it."
            )
        output = step.run(*(values[j] for j in step.inputs))
        values.append(output if tamper is None else tamper(i, output))
        hashes.append(fingerprint(values[-1]))
        chain.append(hashlib.sha256(chain[-1] + hashes[-1]).digest())
    return Trace(values=values, hashes=hashes, chain=chain)


def first_difference(first: Trace, second: Trace) -> tuple[int | None, int]:
    """The first step whose output differs (None if none), and the exchanges it took.

    Raises
    ------
    InvalidInput
        If the parties ran other programs or other inputs: nothing was agreed to start from.
    """
    if len(first.chain) != len(second.chain) or first.chain[0] != second.chain[0]:
        raise InvalidInput("The parties did not run the same program on the same inputs.")
    low, high, exchanges = 0, len(first.chain) - 1, 1
    if first.chain[high] == second.chain[high]:
        return None, exchanges
    while high - low > 1:  # the chains agree at low and differ at high
        middle = (low + high) // 2
        exchanges += 1
        if first.chain[middle] == second.chain[middle]:
            low = middle
        else:
            high = middle
    return low, exchanges


def settle(program: Sequence[Step], first: Trace, second: Trace) -> Verdict:
    """Bisect to the first disputed step, redo it from the agreed inputs, and judge both."""
    step, exchanges = first_difference(first, second)
    if step is None:
        return Verdict(step=None, exchanges=exchanges, honest=(True, True))
    operands: list[Any] = [first.values[j] for j in program[step].inputs]
    for j, operand in zip(program[step].inputs, operands):
        if fingerprint(operand) != second.hashes[j]:
            raise InvalidInput(f"Operand {j} handed to the referee does not have the agreed hash.")
    right = fingerprint(program[step].run(*operands))
    place = len(first.values) - len(program) + step
    return Verdict(
        step=step, exchanges=exchanges,
        honest=(first.hashes[place] == right, second.hashes[place] == right),
    )  # fmt: skip
