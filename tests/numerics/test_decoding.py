import json

import numpy as np
import pytest
from tests.test_cli import fails

from isoflop.cli import main
from isoflop.errors import InvalidInput
from isoflop.numerics.decoding import Arithmetic, Model, Shape, divergence


def test_wider_arithmetic_parts_later_or_never():
    rows = {r["precision"]: r for r in divergence(
        sequences=16, steps=24, shape=Shape(vocab=4096, context=40), seed=3)}  # fmt: skip
    assert rows["bf16"]["diverged"] > rows["fp16"]["diverged"]
    assert rows["bf16"]["diverged"] > 0.3
    # LayerCast keeps 16-bit weights and computes in 32: no sequence parts.
    assert rows["layercast"]["diverged"] == 0.0
    assert rows["layercast"]["weight_bytes"] == 2
    assert rows["fp32"]["first_token"] is None


def test_one_piece_is_the_plain_product():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 8)).astype(np.float32), rng.standard_normal((8, 5))
    how = Arithmetic(precision="fp32", splits=1)
    np.testing.assert_allclose(how.product(a, b.astype(np.float32)), a @ b, rtol=1e-5)
    # Pieces agree in exact arithmetic.
    whole = np.arange(24.0, dtype=np.float32).reshape(3, 8)
    many = Arithmetic(precision="fp32", splits=4)
    np.testing.assert_array_equal(many.product(whole, np.eye(8, dtype=np.float32)), whole)


def test_what_is_stored_is_rounded():
    how = Arithmetic(precision="bf16", splits=1)
    x = np.array([1.0 + 2**-9], np.float32)
    assert how.keep(x)[0] == 1.0
    assert Arithmetic(precision="layercast", splits=1).keep(x)[0] == x[0]
    assert Arithmetic(precision="layercast", splits=1).weight(x)[0] == 1.0


def test_causal():
    """A later token does not change what came before it."""
    model = Model(Shape(vocab=64, context=16))
    how = Arithmetic(precision="fp32", splits=1)
    tokens = np.random.default_rng(0).integers(0, 64, (2, 6))
    grown = model.greedy(tokens, 3, how)
    np.testing.assert_array_equal(grown[:, :6], tokens)
    again = model.greedy(grown[:, :7], 2, how)
    np.testing.assert_array_equal(again, grown)


def test_wrong_input(capsys):
    with pytest.raises(InvalidInput, match="none of"):
        divergence(["fp8"])
    with pytest.raises(InvalidInput, match="exceed the context"):
        Model(Shape(context=8)).greedy(np.zeros((1, 6), int), 4,
                                       Arithmetic(precision="fp32", splits=1))  # fmt: skip
    assert "Between 1 and" in fails(capsys, "formats", "divergence", "--steps", "0")


def test_command(capsys):
    main(["formats", "divergence", "--sequences", "2", "--steps", "3", "--json"])
    assert {r["precision"] for r in json.loads(capsys.readouterr().out)} == {
        "bf16", "fp16", "layercast", "fp32"
    }  # fmt: skip
