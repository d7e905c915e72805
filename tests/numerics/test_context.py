"""Computations rounded operation by operation."""

import numpy as np
import pytest

from isoflop.errors import InvalidInput
from isoflop.numerics import round_to
from isoflop.numerics.context import Rounded, matmul, torch_rounding


def test_rounded_arrays_follow_numpys_own_float16_and_float32():
    rng = np.random.default_rng(0)
    for name, kind in (("fp16", np.float16), ("fp32", np.float32)):
        x, y = rng.standard_normal((2, 500)).astype(kind)
        a, b = Rounded(x, name), Rounded(y, name)
        for ours, theirs in (
            (a + b, x + y), (a - b, x - y), (a * b, x * y), (a / b, x / y), (-a, -x),
            (np.sqrt(abs(a)), np.sqrt(abs(x))), (a * 3 + b, x * kind(3) + y),
        ):  # fmt: skip
            assert np.array_equal(ours.values, theirs.astype(float))
        assert (a > b).dtype == bool
        total = kind(0)
        for value in x:
            total = kind(total + value)
        assert float(np.asarray(np.add.reduce(a))) == float(total)


def test_matmul_rounds_products_and_sums_separately():
    rng = np.random.default_rng(1)
    a = round_to(rng.standard_normal((3, 200)), "bf16")
    b = round_to(rng.standard_normal((200, 2)), "bf16")
    exact = a @ b
    narrow = np.abs(matmul(a, b, "bf16", "bf16") - exact).max()
    wide = np.abs(matmul(a, b, None, "fp32") - exact).max()
    assert wide < 1e-4 < narrow
    by_hand = 0.0
    for k in range(200):
        product = float(round_to(np.float64(a[0, k] * b[k, 0]), "bf16"))
        by_hand = float(round_to(np.float64(by_hand + product), "bf16"))
    assert matmul(a, b, "bf16", "bf16")[0, 0] == by_hand
    x = Rounded(a, "bf16", accumulate="fp32")
    assert np.abs((x @ Rounded(b, "bf16")).values - exact).max() < narrow
    assert (x @ b[:, 0]).shape == (3,)
    with pytest.raises(InvalidInput):
        matmul(a, a, None, None)


def test_iterative_refinement_recovers_double_precision():
    # Factorise in half precision, refine with float64 residuals (Carson and Higham 2018).
    rng = np.random.default_rng(2)
    n = 16
    a = rng.standard_normal((n, n)) + 6 * np.eye(n)
    exact = rng.standard_normal(n)
    b = a @ exact
    lu = Rounded(a, "fp16")
    for k in range(n - 1):
        lu[k + 1 :, k] = (lu[k + 1 :, k] / lu[k, k]).values
        update = lu[k + 1 :, k].values[:, None] * lu[k, k + 1 :].values
        lu[k + 1 :, k + 1 :] = (lu[k + 1 :, k + 1 :] - Rounded(update, "fp16")).values
    lower, upper = np.tril(lu.values, -1) + np.eye(n), np.triu(lu.values)

    def solve(r):
        return np.linalg.solve(upper, np.linalg.solve(lower, r))

    x = solve(b)
    first = np.abs(x - exact).max()
    for _ in range(12):
        x = x + solve(b - a @ x)
    assert first > 1e-4
    assert np.abs(x - exact).max() < 1e-12


def test_torch_context_rounds_forward_and_backward():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    x = torch.randn(5, 8)
    plain = model(x)
    with torch_rounding("bf16"):
        y = model(x)
        y.pow(2).sum().backward()
    assert not torch.equal(y, plain)
    assert torch.allclose(y, plain, atol=0.05)
    for tensor in (y.detach(), *(p.grad for p in model.parameters())):
        assert torch.equal(round_to(tensor, "bf16"), tensor)
    assert torch.equal(model(x), plain)
