"""FP4 training: unbiased gradients, and a tiny transformer that learns with them."""

import numpy as np
import pytest

from isoflop.errors import InvalidInput
from isoflop.numerics import recipes, training


def test_rotation_is_orthogonal_and_flattens_outliers():
    h = training.hadamard(32)
    assert np.allclose(h @ h.T, np.eye(32), atol=1e-6)
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    x[:, 3] *= 50
    y = training.rotate(x)
    assert np.allclose((x**2).sum(), (y**2).sum(), rtol=1e-5)
    assert np.abs(y).max() < np.abs(x).max() / 3
    with pytest.raises(InvalidInput, match="power of two"):
        training.hadamard(12)
    with pytest.raises(InvalidInput, match="groups of 32"):
        training.rotate(x[:, :33])


def test_quartet_forward_has_the_error_its_formula_implies():
    # The fitted half-range of 2.92 spreads is rounded down to 6 times a power of two, so it lies
    # between 1.46 and 2.92 spreads: the error follows by integration over the normal density.
    x = np.random.default_rng(1).standard_normal((4096, 32))
    x = (x / x.std(-1, keepdims=True)).astype(np.float32)  # every group on the same power
    grid = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    t = np.linspace(0, 9, 200_001)
    density = np.sqrt(2 / np.pi) * np.exp(-(t**2) / 2)
    for spread, step in ((1.3, 0.5), (1.9, 0.5), (2.6, 1.0)):
        q, unclipped = training.quartet_forward(x * spread)
        nearest = np.abs(t[:, None] * spread / step - grid).min(1) * step / spread
        expected = np.trapezoid(density * nearest**2, t)
        assert ((q / spread - x) ** 2).mean() == pytest.approx(expected, rel=0.1)
        clipped = np.trapezoid(density * (t * spread / step >= 6), t)
        assert 1 - unclipped.mean() == pytest.approx(clipped, abs=0.01)


def test_quartet_backward_is_unbiased():
    x = np.random.default_rng(2).standard_normal((4, 32)).astype(np.float32)
    mean = np.mean([training.quartet_backward(x, seed) for seed in range(4000)], axis=0)
    assert np.abs(mean / training.BACKWARD_HEADROOM - x).max() < 0.05
    nearest, _ = training.quartet_forward(x)
    assert np.abs(nearest - x).max() > 0.1


def test_gradient_noise_ratio_is_scale_free():
    g = np.random.default_rng(3).standard_normal((64, 256)).astype(np.float32)
    ratio = training.noise_ratio(g)
    assert training.NOISE_RATIO < ratio < 20
    assert training.noise_ratio(g * 1e-3) == pytest.approx(ratio, rel=0.02)
    assert training.noise_ratio(np.zeros((2, 32), np.float32)) == np.inf


def tiny_transformer(torch, linear):
    """One attention block over a vocabulary of 16, width 32."""

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(16, 32)
            self.place = torch.nn.Parameter(torch.randn(16, 32) * 0.1)
            self.qkv, self.out = linear(32, 96), linear(32, 32)
            self.up, self.down = linear(32, 64), linear(64, 32)
            self.head = torch.nn.Linear(32, 16)
            self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(32) for _ in range(2))

        def forward(self, tokens):
            x = self.embed(tokens) + self.place[: tokens.shape[1]]
            q, k, v = self.qkv(self.norms[0](x)).chunk(3, -1)
            mask = torch.triu(torch.full((tokens.shape[1],) * 2, float("-inf")), 1)
            x = x + self.out(torch.softmax(q @ k.transpose(1, 2) / 32**0.5 + mask, -1) @ v)
            x = x + self.down(torch.relu(self.up(self.norms[1](x))))
            return self.head(x)

    return Tiny()


def train(torch, linear, steps):
    """Loss after learning to name the previous token plus this one, modulo 16."""
    torch.manual_seed(0)
    model = tiny_transformer(torch, linear)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        tokens = torch.randint(0, 16, (32, 12), generator=generator)
        wanted = (tokens[:, 1:] + tokens[:, :-1]) % 16
        logits = model(tokens)[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 16), wanted.reshape(-1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return float(np.mean(losses[-20:]))


@pytest.mark.slow
def test_a_tiny_transformer_learns_in_four_bits():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    exact = train(torch, torch.nn.Linear, 700)
    four = train(torch, recipes.four_bit_linear, 700)
    start = np.log(16)
    assert exact < 0.5 * start
    assert exact < four < 0.8 * start


def test_four_bit_gradients_are_unbiased():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = recipes.four_bit_linear(32, 16)
    x = torch.randn(64, 32)
    upstream = torch.randn(64, 16)
    grads = []
    for _ in range(200):
        layer.weight.grad = None
        (layer(x) * upstream).sum().backward()
        grads.append(layer.weight.grad.clone())
    exact = upstream.T @ x
    mean = torch.stack(grads).mean(0)
    single = (grads[0] - exact).norm() / exact.norm()
    assert (mean - exact).norm() / exact.norm() < 0.35 * single
