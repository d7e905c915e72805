"""Computations rounded operation by operation."""

import numpy as np
import pytest

from isoflop.errors import InvalidInput
from isoflop.numerics import round_to
from isoflop.numerics.context import Rounded, matmul
from isoflop.numerics.torch_context import torch_rounding


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


def test_reductions_and_batches_of_rounded_arrays():
    rng = np.random.default_rng(3)
    x = Rounded(rng.standard_normal((2, 5, 4)), "bf16")
    y = Rounded(rng.standard_normal((2, 4, 3)), "bf16")
    for i in range(2):
        assert np.array_equal((x @ y).values[i], (x[i] @ y[i]).values)
    total = 0.0
    for value in x.values.ravel():
        total = float(round_to(np.float64(total + value), "bf16"))
    assert float(np.asarray(np.sum(x))) == total
    assert float(np.asarray(x.mean())) == round_to(np.float64(total / 40), "bf16")
    assert np.array_equal(np.asarray(np.sum(x, axis=(0, 2))).shape, (5,))
    assert np.array_equal(np.asarray(np.maximum.reduce(x, axis=1)), x.values.max(1))
    with pytest.raises(InvalidInput, match="no dtype"):
        np.sum(x, dtype=np.float32)


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_stochastic_operations_draw_afresh(rounding):
    # 0.001 added 4,096 times in bfloat16: nearest stops at 0.25 to 0.5 as the terms fall below half
    # a unit; stochastic rounding is right on average only if every addition draws its own words.
    total = Rounded(np.zeros(256), "bf16", rounding=rounding, seed=1)
    for _ in range(4096):
        total = total + 0.001
    if rounding == "nearest_even":
        assert total.values.max() <= 0.5
    else:
        assert abs(total.values.mean() - 4.096) < 0.05
        assert total.values.std() > 0


def test_torch_context_accumulates_in_a_chosen_format():
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    x, layer = torch.randn(3, 300), torch.nn.Linear(300, 4)
    with torch_rounding("bf16", accumulate="bf16"), torch.no_grad():
        narrow = layer(x)
        summed = x.sum(1)
        mean = x.mean()
    # operands from outside are as they were: only results are rounded
    by_hand = matmul(x.double().numpy(), layer.weight.detach().double().numpy().T, "bf16", "bf16")
    by_hand = round_to(by_hand + layer.bias.detach().double().numpy(), "bf16")
    assert np.array_equal(narrow.double().numpy(), by_hand)
    total = np.zeros(3)
    for k in range(300):
        total = round_to(total + x[:, k].double().numpy(), "bf16")
    assert np.array_equal(summed.double().numpy(), total)
    assert mean.dtype == torch.float32
    with torch_rounding("bf16", accumulate="fp32"), torch.no_grad():
        wide = layer(x)
    exact = layer(x).detach()
    assert (wide - exact).abs().max() < (narrow - exact).abs().max()


def test_torch_context_rounds_strided_lists_and_half_tensors():
    torch = pytest.importorskip("torch")
    torch.manual_seed(2)
    x = torch.randn(6, 5)
    with torch_rounding("fp8-e4m3"):
        strided = x.t().exp()
        half = x.to(torch.bfloat16) * 1.5
        torch.empty(100)
    assert not strided.is_contiguous()
    for tensor in (strided, half):
        assert torch.equal(round_to(tensor, "fp8-e4m3"), tensor)
    assert half.dtype == torch.bfloat16
    layer = torch.nn.Linear(8, 8)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.01, foreach=True)
    before = layer.weight.detach().clone()
    with torch_rounding("bf16"):
        layer(torch.randn(3, 8)).sum().backward()
        optimiser.step()
    assert not torch.equal(layer.weight, before)
    assert torch.equal(round_to(layer.weight.detach(), "bf16"), layer.weight)
    with pytest.raises(InvalidInput, match="cannot hold"), torch_rounding("fp16"):
        x.to(torch.bfloat16)
