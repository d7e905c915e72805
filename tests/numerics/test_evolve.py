import json

import numpy as np
import pytest
from tests.test_cli import fails

from isoflop.cli import main
from isoflop.errors import InvalidInput
from isoflop.numerics.arithmetic.evolve import (
    ARGUMENT,
    FUNCTIONS,
    Program,
    Target,
    evolve,
    fit_constants,
    horner,
    minimax_polynomial,
)


def test_polynomial_baseline_is_the_minimax_one():
    """2^x on [0, 1]: relative errors of the best polynomials, from Remez iterations."""
    for operations, known in ((4, 1.72e-3), (6, 7.48e-5), (8, 2.61e-6)):
        found = minimax_polynomial(Target(name="exp2"), operations)
        assert found.error == pytest.approx(known, rel=0.01)
        # Equioscillation: the error reaches its size degree + 2 times.
        x, y = Target(name="exp2").check()
        e = found.program.evaluate(x, found.constants) / y - 1
        peaks = [np.abs(part).max() for part in np.split(e, np.nonzero(np.diff(np.sign(e)))[0] + 1)]
        assert len(peaks) == operations // 2 + 2
        assert min(peaks) > 0.97 * max(peaks)


def test_program_drops_what_does_not_count():
    program = Program(operations=((0, ARGUMENT, -2), (2, ARGUMENT, ARGUMENT), (1, 1, -2)))
    assert len(program.live) == 2
    assert program.constants == 1
    x = np.array([1.0, 2.0])
    np.testing.assert_allclose(program.evaluate(x, np.array([3.0])), x * x - 3)
    space = {}
    exec(program.code(np.array([3.0])), space)  # the printed code is the program
    assert space["f"](5.0) == 22.0
    assert len(horner(7).operations) == 6


def test_constants_of_an_exact_form_are_found():
    # 1 / sqrt is no such form, but x / (a + x b) fits x / (2 + 3 x) exactly.
    program = Program(operations=((2, ARGUMENT, -2), (0, 0, -2), (3, ARGUMENT, 1)))
    FUNCTIONS["ratio"] = (lambda x: x / (2 + 3 * x), 0.5, 2.0)
    try:
        constants, error = fit_constants(program, Target(name="ratio"), np.array([1.0, 1.0]))
    finally:
        del FUNCTIONS["ratio"]
    assert error < 1e-9
    np.testing.assert_allclose(constants, [3.0, 2.0], rtol=1e-6)


def test_search_beats_the_polynomial_of_the_same_length():
    base = minimax_polynomial(Target(name="exp2"), 5)
    found = evolve("exp2", 5, budget=3000, seed=0)
    assert found.operations <= 5
    assert found.error < 0.6 * base.error
    assert found.float32_error < found.error + 1e-6
    # The printed function has the error that is claimed.
    space = {}
    exec(found.program.code(found.constants, "exp2"), space)
    x = np.linspace(0, 1, 1001)
    assert np.max(np.abs(space["exp2"](x) / np.exp2(x) - 1)) == pytest.approx(found.error, rel=0.02)


def test_command(capsys):
    main(["formats", "evolve", "exp", "--operations", "4", "--budget", "400", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["operations"] <= 4
    assert found["code"].startswith("def exp(x):")
    assert "none of the functions" in fails(capsys, "formats", "evolve", "gamma")
    assert "between 2 and 24" in fails(capsys, "formats", "evolve", "--operations", "1")
    with pytest.raises(InvalidInput, match="below the population"):
        evolve("exp", 4, budget=3)
