"""Disputes over a trace of reproducible operators."""

from functools import partial

import numpy as np
import pytest

from isoflop.errors import InvalidInput
from isoflop.numerics.arithmetic import reproducible
from isoflop.numerics.arithmetic.dispute import Step, execute, first_difference, settle


def program(layers, threads=1):
    """x -> relu(x W_i) for each layer; inputs are x and the weights."""
    product = partial(reproducible.matmul, threads=threads)
    steps, last = [], 0
    for i in range(layers):
        steps.append(Step(name=f"product {i}", run=product, inputs=(last, 1 + i)))
        last = layers + len(steps)
        relu = lambda y: np.maximum(y, np.float32(0))  # noqa: E731
        steps.append(Step(name=f"relu {i}", run=relu, inputs=(last,)))
        last = layers + len(steps)
    return steps


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((16, 16)).astype(np.float32) for _ in range(20)]
    return [rng.standard_normal((4, 16)).astype(np.float32), *weights]


def test_honest_parties_agree_whatever_their_threads(inputs):
    one, two = execute(program(20), inputs), execute(program(20, threads=3), inputs)
    verdict = settle(program(20), one, two)
    assert (verdict.step, verdict.exchanges, verdict.honest) == (None, 1, (True, True))


@pytest.mark.parametrize("at", [0, 1, 17, 38, 39])
def test_the_first_wrong_operator_is_found_and_its_author_named(inputs, at):
    def flip(step, output):
        if step < at:
            return output
        bits = output.copy()
        bits.view(np.uint32).flat[3] ^= 1  # the last bit of one value
        return bits

    steps = program(20)
    honest, cheat = execute(steps, inputs), execute(steps, inputs, tamper=flip)
    verdict = settle(steps, honest, cheat)
    assert verdict.step == at
    assert verdict.honest == (True, False)
    assert settle(steps, cheat, honest).honest == (False, True)
    assert verdict.exchanges <= 1 + np.ceil(np.log2(len(steps)))


def test_an_operator_that_is_not_reproducible_starts_a_dispute(inputs):
    steps = program(20)
    fused = [Step(name=s.name, run=(lambda a, b: (a.astype(float) @ b).astype(np.float32))
                  if "product" in s.name else s.run, inputs=s.inputs) for s in steps]  # fmt: skip
    step, _ = first_difference(execute(steps, inputs), execute(fused, inputs))
    assert step == 0


def test_what_cannot_be_disputed(inputs):
    other = [inputs[0] + 1, *inputs[1:]]
    with pytest.raises(InvalidInput, match="same program on the same inputs"):
        first_difference(execute(program(20), inputs), execute(program(20), other))
    with pytest.raises(InvalidInput, match="only 1 values"):
        execute([Step(name="y", run=np.add, inputs=(0, 1))], [np.ones(2)])
