"""Quantizers: identities, bounds and orderings that theory promises."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.errors import InvalidInput, UnknownName
from isoflop.numerics import encode_blocks, ksort, qat, quantizers, round_to
from isoflop.numerics.formats import load as load_format
from isoflop.numerics.huffman import HuffmanCode
from isoflop.numerics.quantizers import Calibration, load_weight_format
from isoflop.numerics.quantizers._base import damped_cholesky, weighted_error
from isoflop.numerics.quantizers.babai import bound, nearest_plane
from isoflop.numerics.quantizers.bias_search import encodings
from isoflop.numerics.quantizers.bit_planes import multiply, plane_weights, planes
from isoflop.numerics.quantizers.gptq import inverse_factor, min_pivot_order, propagate
from isoflop.numerics.quantizers.seedlm import SeedLM, bases, lfsr_states
from isoflop.numerics.quantizers.whitepaper_int8 import fold_batch_norm


def layer(rng, rows=48, width=128, samples=512):
    mix = rng.standard_normal((width, width)) * np.exp(rng.standard_normal(width)) * 0.1
    inputs = rng.standard_normal((samples, width)) @ mix
    weight = (rng.standard_normal((rows, width)) * 0.02).astype(np.float32)
    return weight, Calibration.of(inputs)


def relative(result, weight, calibration):
    error = weighted_error((result.values - weight).astype(float), calibration.hessian)
    return error / weighted_error(weight.astype(float), calibration.hessian)


def test_gptq_is_babai_and_the_bound_holds():
    """1,000 random layers: the same integers, and no row above its bound."""
    rng = np.random.default_rng(0)
    for trial in range(1000):
        n, rows = int(rng.integers(2, 24)), int(rng.integers(1, 6))
        x = rng.standard_normal((2 * n, n)) * np.exp(rng.standard_normal(n))
        hessian = x.T @ x
        weight = rng.standard_normal((rows, n)) * 4
        scale = np.exp(rng.uniform(-1, 1, (rows, n)))
        order = np.arange(n)[::-1]
        upper, _ = inverse_factor(hessian[np.ix_(order, order)], 0.0)
        steps = scale[:, order]

        def nearest(j, column, steps=steps):
            return np.rint(column / steps[:, j]) * steps[:, j]

        by_gptq = propagate(weight[:, order].T.copy(), upper, nearest).T[:, order] / scale
        by_babai, diagonal = nearest_plane(weight, hessian, scale, -np.inf, np.inf)
        assert np.array_equal(np.rint(by_gptq), by_babai), trial
        error = by_babai * scale - weight
        loss = np.einsum("ij,ij->i", error @ hessian, error)
        assert np.all(loss <= bound(scale, diagonal, rows) * (1 + 1e-9)), trial


def test_min_pivot_order_lowers_the_bound_and_the_error():
    rng = np.random.default_rng(5)
    sums, errors = [], []
    fmt = load_weight_format("int4-g32")
    for _ in range(12):
        weight, calibration = layer(rng, width=64)
        names = ("gptq-min-pivot", "gptq-act-order", "gptq")
        done = [quantizers.load(n).quantize(weight, fmt, calibration) for n in names]
        sums.append([d.facts["pivot_sum"] for d in done])
        errors.append([relative(d, weight, calibration) for d in done])
        assert sums[-1][0] <= sums[-1][1] * 1.001
    sums, errors = np.mean(sums, 0), np.mean(errors, 0)
    assert sums[0] < sums[1] < sums[2]
    assert errors[0] < errors[2]
    order = min_pivot_order(np.diag([3.0, 1.0, 2.0]), 0.0)
    assert order.tolist() == [0, 2, 1]  # for independent inputs it is act-order


def test_bias_search_beats_every_fixed_encoding():
    rng = np.random.default_rng(6)
    weight = rng.standard_normal((32, 64)).astype(np.float32) * 0.02
    blind = Calibration.identity(64)
    found = quantizers.load("bias-search").quantize(weight, load_weight_format("fp4-e2m1"), blind)
    assert found.facts["exponent_bits"] + found.facts["mantissa_bits"] == 3
    for encoding in encodings(4):
        scale = np.float32(np.abs(weight).max() / encoding.max)
        fixed = round_to(weight / scale, encoding) * scale
        assert ((found.values - weight) ** 2).sum() <= ((fixed - weight) ** 2).sum()
    wide = np.float32(2.0) ** rng.integers(-6, 6, (32, 64)) * np.sign(weight)
    wide = quantizers.load("bias-search").quantize(wide, load_weight_format("fp4-e2m1"), blind)
    assert wide.facts["exponent_bits"] == 3  # powers of two need exponents, not mantissas
    assert found.facts["exponent_bits"] < 3
    with pytest.raises(InvalidInput, match="splits 3 to 8 bits"):
        quantizers.load("bias-search").quantize(weight, load_weight_format("bf16"), blind)


def test_babai_is_optimal_for_orthogonal_inputs_and_near_it_otherwise():
    rng = np.random.default_rng(1)
    weight = rng.uniform(-2, 2, (1, 4))
    x = rng.standard_normal((8, 4))
    hessian = x.T @ x
    found, _ = nearest_plane(weight, hessian, np.ones(4), -np.inf, np.inf)
    grid = np.array(list(itertools.product(range(-4, 5), repeat=4)))
    losses = np.einsum("ij,ij->i", (grid - weight) @ hessian, grid - weight)
    e = found - weight
    assert losses.min() <= (e @ hessian @ e.T).item() + 1e-12
    diagonal, _ = nearest_plane(weight, np.diag([1.0, 2, 3, 4]), np.ones(4), -np.inf, np.inf)
    assert np.array_equal(diagonal, np.rint(weight))


@pytest.mark.parametrize("name", ["int4-g128", "int4-g64-asym", "nvfp4", "mxfp4", "nf4"])
def test_calibrated_methods_beat_rounding_to_nearest(name):
    fmt = load_weight_format(name)
    weight, calibration = layer(np.random.default_rng(3))
    base = relative(quantizers.load("rtn").quantize(weight, fmt, calibration), weight, calibration)
    for method in ("gptq", "gptq-act-order", "awq", "clip", "learned-rounding"):
        result = quantizers.load(method).quantize(weight, fmt, calibration)
        factor = 0.85 if method.startswith("gptq") else 1.0 + 1e-9
        assert relative(result, weight, calibration) < base * factor, method
        if result.blocks is not None:
            assert np.array_equal(result.blocks.decode(), result.values)


def test_gptq_without_data_is_rounding_to_nearest_and_says_so():
    weight, _ = layer(np.random.default_rng(4))
    fmt = load_weight_format("int4-g32")
    blind = Calibration.identity(weight.shape[1])
    result = quantizers.load("gptq").quantize(weight, fmt, blind)
    plain = quantizers.load("rtn").quantize(weight, fmt, blind)
    assert np.array_equal(result.values, plain.values)
    assert any("No calibration data" in note for note in result.notes)


def test_babai_reports_its_bound():
    weight, calibration = layer(np.random.default_rng(5))
    fmt = load_weight_format("int8-channel")
    facts = quantizers.load("babai").quantize(weight, fmt, calibration).facts
    assert 0.2 < facts["error"] / facts["bound"] < 0.5  # a third is expected
    with pytest.raises(InvalidInput, match="symmetric integer grid"):
        quantizers.load("babai").quantize(weight, load_weight_format("nvfp4"), calibration)


def test_indefinite_hessians_are_damped_and_said_so():
    h = np.diag([1.0, 1.0, -0.05])
    _, used = damped_cholesky(h, 0.01)
    assert used > 0.05
    weight, _ = layer(np.random.default_rng(6), width=32)
    rank_one = np.ones((32, 32)) - 0.02 * np.eye(32)
    calibration = Calibration(hessian=rank_one, amax=np.ones(32), rows=5)
    result = quantizers.load("gptq").quantize(weight, load_weight_format("int4-g32"), calibration)
    assert any("not positive definite at damping 0.01" in note for note in result.notes)
    with pytest.raises(InvalidInput, match="even when damped"):
        damped_cholesky(np.array([[0.0, 1e30], [1e30, 0.0]]), 0.01)
    with pytest.raises(InvalidInput, match="NaN or infinite"):
        damped_cholesky(np.full((2, 2), np.nan))


def test_too_few_calibration_rows_are_said_so():
    rng = np.random.default_rng(8)
    weight = rng.standard_normal((32, 64)).astype(np.float32)
    few, enough = (Calibration.of(rng.standard_normal((n, 64))) for n in (20, 200))
    fmt = load_weight_format("int4-g32")
    for name in ("gptq", "babai", "hptq", "ssqr"):
        notes = quantizers.load(name).quantize(weight, fmt, few).notes
        assert any("20 calibration rows for 64 inputs" in note for note in notes), name
        assert not quantizers.load(name).quantize(weight, fmt, enough).notes
    with pytest.raises(UnknownName, match="one of: awq, babai"):
        quantizers.load("nonesuch")


def test_dead_inputs_do_not_break_gptq():
    weight, calibration = layer(np.random.default_rng(7), width=64)
    calibration.hessian[5, :] = calibration.hessian[:, 5] = 0
    result = quantizers.load("gptq").quantize(weight, load_weight_format("int4-g32"), calibration)
    assert np.isfinite(result.values).all()


def test_bad_weights_say_where():
    weight, calibration = layer(np.random.default_rng(8))
    weight[3, 7] = np.inf
    for method in quantizers.names():
        with pytest.raises(InvalidInput, match=r"\(3, 7\) is inf"):
            quantizers.load(method).quantize(weight, load_weight_format("int4-g32"), calibration)
    with pytest.raises(InvalidInput, match="do not divide"):
        quantizers.load("gptq").quantize(
            np.ones((4, 100), np.float32), load_weight_format("int4-g64"), Calibration.identity(100)
        )
    with pytest.raises(UnknownName, match="quantizer"):
        quantizers.load("gtpq")


def test_every_quantizer_keeps_zero_rows_and_counts_bytes():
    weight, calibration = layer(np.random.default_rng(9), rows=8)
    weight[2] = 0
    fmt = load_weight_format("int4-g32")
    for method in quantizers.names():
        result = quantizers.load(method).quantize(weight, fmt, calibration)
        assert not result.values[2].any(), method
        assert result.values.shape == weight.shape
        assert 0 < result.storage_bytes <= weight.nbytes


def test_calibration_streams_in_float64():
    x = np.random.default_rng(0).standard_normal((1000, 6)).astype(np.float32)
    whole, parts = Calibration.of(x), Calibration.of(x, chunk=7)
    assert np.allclose(whole.hessian, parts.hessian, rtol=1e-14, atol=0)
    assert np.allclose(whole.hessian, (x.astype(float).T @ x.astype(float)) / 1000)


# --- SeedLM -----------------------------------------------------------------------------------


def test_registers_have_full_period_and_the_published_states(vectors):
    for name, entry in vectors("lfsr.json").items():
        bits, taps = name.split("_")[0][1:], name.split("taps")[1]
        if taps == "16_14_13_11":
            continue
        states = lfsr_states(np.array([1]), int(bits), entry["period"] + 1)[0]
        assert states[:64].tolist() == entry["first64_from_seed1"]
        assert states[-1] == 1
        assert len(set(states[:-1].tolist())) == entry["period"] == (1 << int(bits)) - 1


def test_seed_search_equals_brute_force():
    rng = np.random.default_rng(1)
    weight = (rng.standard_normal((3, 8)) * 0.05).astype(np.float32)
    method = SeedLM(block=4, rank=2, seed_bits=8)
    got = method.quantize(weight, None, Calibration.identity(8)).values.reshape(-1, 4)
    high = int(np.ceil(np.log2(np.abs(weight).max())))
    u = bases(np.arange(1, 256), 8, 4, 2)
    for w, found in zip(weight.reshape(-1, 4).astype(float), got):
        t = np.stack([np.linalg.lstsq(m, w, rcond=None)[0] for m in u])
        e = np.ceil(np.log2(np.abs(t).max(1) / 7.5)).clip(high - 15, high)
        q = np.clip(np.rint(t / 2 ** e[:, None]), -8, 7)
        errors = ((np.einsum("scp,sp->sc", u, q * 2 ** e[:, None]) - w) ** 2).sum(1)
        assert ((found - w) ** 2).sum() == pytest.approx(errors.min(), rel=1e-4)


def test_seedlm_bits_to_the_byte():
    weight = np.random.default_rng(2).standard_normal((4, 48)).astype(np.float32)
    result = SeedLM(block=8, rank=3, seed_bits=8).quantize(weight, None, Calibration.identity(48))
    assert result.storage_bytes == 24 * (8 + 4 + 12) // 8 + 1
    assert SeedLM().bits_per_weight == 4.0
    assert SeedLM(block=12, rank=4).bits_per_weight == 3.0
    with pytest.raises(InvalidInput, match="SeedLM blocks of 8"):
        SeedLM().quantize(np.ones((2, 12), np.float32), None, Calibration.identity(12))


# --- the rest ---------------------------------------------------------------------------------


def test_power_exponent_finds_the_power_the_weights_have():
    # |w|^0.5 uniform: codes uniform in |w|^0.5 are then the best power.
    rng = np.random.default_rng(3)
    weight = (rng.uniform(-1, 1, (4, 4096)) * 1.0).astype(np.float32)
    weight = np.sign(weight) * weight**2
    fmt = load_weight_format("int4")
    result = quantizers.load("powerquant").quantize(weight, fmt, Calibration.identity(4096))
    linear = quantizers.load("powerquant").quantize(
        np.sign(weight) * np.sqrt(np.abs(weight)), fmt, Calibration.identity(4096)
    )
    assert result.facts["exponent"] < linear.facts["exponent"]
    assert 0.9 < linear.facts["exponent"] < 1.1


@pytest.mark.parametrize("bits", [3, 4])
def test_nupes_learns_codes_and_exponent_together(bits):
    rng = np.random.default_rng(bits)
    mix = rng.standard_normal((64, 64)) * np.exp(rng.standard_normal(64)) * 0.1
    seen, unseen = (Calibration.of(rng.standard_normal((n, 64)) @ mix) for n in (512, 512))
    weight = (rng.standard_normal((32, 64)) * 0.02).astype(np.float32)
    weight[3] = 0
    fmt = load_format(f"power{bits}-a0.5")
    searched, joint, codes_only = (
        quantizers.load(name, **options).quantize(weight, fmt, seen)
        for name, options in
        (("powerquant", {}), ("nupes", {}), ("nupes", {"learn_exponent": False}))
    )  # fmt: skip
    for data in (seen, unseen):
        assert relative(joint, weight, data) < 0.6 * relative(searched, weight, data)
    assert relative(joint, weight, seen) < 1.01 * relative(codes_only, weight, seen)
    assert joint.facts["exponent"] != joint.facts["searched"] == searched.facts["exponent"]
    assert codes_only.facts["exponent"] == searched.facts["exponent"]
    assert joint.storage_bytes == searched.storage_bytes
    # What it returns is codes and one scale per row, decoded.
    assert not joint.values[3].any()
    top = 2 ** (bits - 1) - 1
    scale = np.abs(weight).max(1, keepdims=True) + (np.abs(weight).max(1, keepdims=True) == 0)
    q = top * (np.abs(joint.values) / scale) ** joint.facts["exponent"]
    assert np.abs(q - np.rint(q)).max() < 1e-4
    assert q.max() <= top * (1 + 1e-6)
    blind = quantizers.load("nupes", steps=40).quantize(weight, fmt, Calibration.identity(64))
    assert relative(blind, weight, Calibration.identity(64)) <= 1.0001 * relative(
        quantizers.load("powerquant").quantize(weight, fmt, Calibration.identity(64)),
        weight, Calibration.identity(64),
    )  # fmt: skip
    assert "No calibration data" in blind.notes[0]
    with pytest.raises(InvalidInput, match="at least 1"):
        quantizers.load("nupes", steps=0).quantize(weight, fmt, seen)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_bit_planes_multiply_exactly(seed):
    rng = np.random.default_rng(seed)
    w = rng.integers(-8, 8, (5, 12))
    x = rng.integers(-128, 128, (3, 12))
    stack = planes((w & 15).astype(np.uint8), 4)
    assert np.array_equal(np.tensordot(plane_weights(4), stack.astype(int), 1), w)
    assert np.array_equal(multiply(x, stack), x @ w.T)


def test_dropping_planes_loses_gradually():
    weight, calibration = layer(np.random.default_rng(4))
    fmt = load_weight_format("int8-channel")
    errors, sizes = [], []
    for keep in (8, 6, 4, 2):
        result = quantizers.load("bit-planes", keep=keep).quantize(weight, fmt, calibration)
        errors.append(relative(result, weight, calibration))
        sizes.append(result.storage_bytes)
    assert errors == sorted(errors)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("rotary", [True, False])
def test_ksort_leaves_attention_unchanged_and_helps_blocks(rotary):
    rng = np.random.default_rng(5)
    heads, d, hidden = 2, 128, 32
    wk = rng.standard_normal((heads * d, hidden)) * np.exp(rng.standard_normal((heads * d, 1)))
    wq = rng.standard_normal((heads * d, hidden))
    x = rng.standard_normal((10, hidden))
    order = ksort.permutation(wk, d, rotary)
    assert sorted(order.tolist()) == list(range(heads * d))

    def rotate(v, of):
        half = d // 2
        angle = np.arange(10)[:, None] * 10000.0 ** (-(of[:half] % half) / half)
        a, b = v[:, :half], v[:, half:]
        c, s = np.cos(angle), np.sin(angle)
        return np.concatenate([a * c - b * s, b * c + a * s], 1)

    for h in range(heads):
        plain, moved = np.arange(d) + h * d, order[h * d : (h + 1) * d]
        scores = []
        for rows in (plain, moved):
            q, k = x @ wq[rows].T, x @ wk[rows].T
            if rotary:
                q, k = rotate(q, rows - h * d), rotate(k, rows - h * d)
            scores.append(q @ k.T)
        assert np.allclose(*scores)
    k = (x @ wk.T).astype(np.float32)
    plain = ((round_to(k, "bfp12-n32") - k) ** 2).sum()
    kept = k[:, order]
    assert ((round_to(kept, "bfp12-n32") - kept) ** 2).sum() < plain
    with pytest.raises(InvalidInput, match="heads of 60"):
        ksort.permutation(wk, 60)


def test_batch_norm_folds():
    rng = np.random.default_rng(6)
    w, b = rng.standard_normal((5, 7)), rng.standard_normal(5)
    gamma, beta, mean = rng.standard_normal((3, 5))
    variance = rng.uniform(0.1, 2, 5)
    x = rng.standard_normal((11, 7))
    y = (x @ w.T + b - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    w2, b2 = fold_batch_norm(w, b, gamma, beta, mean, variance)
    assert np.allclose(x @ w2.T + b2, y)


def test_lsq_step_gradient_is_the_published_one():
    v = np.array([0.3, -5.0, 9.0, 1.6])
    upstream = np.array([1.0, 1.0, 1.0, 2.0])
    to_v, to_s = qat.lsq_backward(v, 1.0, -4, 3, upstream)
    assert to_v.tolist() == [1, 0, 0, 2]
    assert to_s == pytest.approx((-0.3 - 4 + 3 + 2 * 0.4) / np.sqrt(4 * 3))
    assert qat.lsq_forward(v, 1.0, -4, 3).tolist() == [0, -4, 3, 2]
    # Descending it lowers the error of a badly started step.
    w = np.random.default_rng(0).standard_normal(4096)
    step = 3 * qat.lsq_initial_step(w, 7)
    first = ((qat.lsq_forward(w, step, -8, 7) - w) ** 2).mean()
    for _ in range(200):
        error = 2 * (qat.lsq_forward(w, step, -8, 7) - w) / w.size
        step -= 2.0 * qat.lsq_backward(w, step, -8, 7, error)[1]
    assert ((qat.lsq_forward(w, step, -8, 7) - w) ** 2).mean() < first


def test_training_with_learned_steps_beats_rounding_afterwards():
    """A 3-bit student of a random layer: trained on its own grid against trained, then rounded."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(512, 24) * torch.linspace(0.3, 2, 24)
    wanted = torch.tanh(x @ torch.randn(24, 12) / 4) @ torch.randn(12, 6)

    def fit(hidden, out):
        torch.manual_seed(1)
        model = torch.nn.Sequential(hidden(24, 32), torch.nn.Tanh(), out(32, 6))
        optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(300):
            optimiser.zero_grad()
            ((model(x) - wanted) ** 2).mean().backward()
            optimiser.step()
        return model

    def loss(model):
        return ((model(x) - wanted) ** 2).mean().item()

    plain = fit(torch.nn.Linear, torch.nn.Linear)
    learned = fit(*[lambda i, o: qat.lsq_linear(i, o, bits=3)] * 2)
    exact = loss(plain)
    for layer_ in (plain[0], plain[2]):
        step = layer_.weight.detach().abs().max() / 3
        layer_.weight.data = torch.clamp(torch.round(layer_.weight / step), -4, 3) * step
    assert exact < loss(learned) < 0.6 * loss(plain)
    start = qat.lsq_initial_step(np.zeros(1) + 1, 3)
    assert learned[0].weight_step.item() != pytest.approx(start)
    codes = learned[0].weight / learned[0].weight_step
    assert codes.abs().max() > 1
    full = fit(*[lambda i, o: qat.lsq_linear(i, o, bits=4, activation_bits=4)] * 2)
    assert loss(full) < loss(plain)
    assert full[0].input_step.item() > 0
    with pytest.raises(InvalidInput, match="2 to 8 bits"):
        qat.lsq_linear(4, 4, bits=1)


def test_sorted_keys_of_a_trained_cache_lose_less():
    """K-sort on the keys that a trained attention layer caches, and what attention makes of it."""
    from isoflop.numerics.tiny_transformer import WIDTH, draw, train

    errors, scores = np.zeros((2, 3)), np.zeros((2, 3))
    for seed in range(3):
        model, losses = train(None, steps=250, learning_rate=3e-3, seed=seed)
        assert losses[-20:].mean() < 0.2
        kept = model.forward(draw(np.random.default_rng(3), batch=64)[0])[1]
        of_keys = model.weights["qkv"][:, WIDTH : 2 * WIDTH].T
        order = ksort.permutation(of_keys, WIDTH, rotary=False)
        exact = kept["q"] @ kept["k"].transpose(0, 2, 1)
        for i, channels in enumerate((np.arange(WIDTH), order)):
            k, q = np.ascontiguousarray(kept["k"][..., channels]), kept["q"][..., channels]
            assert np.allclose(q @ k.transpose(0, 2, 1), exact, atol=1e-4)
            cached = round_to(k, "bfp12-n8")
            errors[i, seed] = ((cached - k) ** 2).sum()
            scores[i, seed] = ((q @ cached.transpose(0, 2, 1) - exact) ** 2).sum()
    assert np.all(errors[1] < errors[0])
    assert scores[1].sum() < scores[0].sum()
    assert errors[1].sum() < 0.97 * errors[0].sum()


def test_straight_through_rounding_in_torch():
    torch = pytest.importorskip("torch")
    x = torch.linspace(-2, 2, 9, requires_grad=True)
    y = qat.torch_round(x, "e2m1")
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones(9))
    assert np.array_equal(y.detach().numpy(), round_to(x.detach().numpy(), "e2m1"))


def heavy_layer(rng, rows=48, width=128):
    """A layer whose weights have far outliers, as trained ones do."""
    weight, calibration = layer(rng, rows, width)
    far = rng.random(weight.shape) < 0.004
    return np.where(far, weight * np.float32(12), weight), calibration


def test_unclipped_variants_keep_the_bound_that_clipping_breaks():
    rng = np.random.default_rng(11)
    broken = 0
    for _ in range(10):
        weight, calibration = heavy_layer(rng)
        fmt = load_weight_format("int3-g128")
        for name in ("hptq", "ssqr"):
            facts = quantizers.load(name).quantize(weight, fmt, calibration).facts
            assert facts["error"] <= facts["bound"]
        steps = quantizers.load("clip").quantize(weight, fmt, calibration).blocks.scales
        steps = np.repeat(steps, 128, axis=1).astype(float)
        lower, _ = damped_cholesky(calibration.hessian)
        integers, diagonal = nearest_plane(
            weight.astype(float), lower @ lower.T, steps, fmt.element.low, fmt.element.high
        )
        error = integers * steps - weight
        rows = np.einsum("ij,ij->i", error @ calibration.hessian, error)
        broken += int((rows > bound(steps, diagonal, len(weight))).sum())
    assert broken > 0


def test_huffman_coded_gptq_meets_its_bits_and_beats_gptq_at_them():
    rng = np.random.default_rng(12)
    for name in ("int2-g128", "int3-g128", "int4-g128"):
        weight, calibration = heavy_layer(rng, 128, 256)
        fmt = load_weight_format(name)
        clipped = quantizers.load("gptq-act-order").quantize(weight, fmt, calibration)
        nearest = quantizers.load("hptq", propagate=False).quantize(weight, fmt, calibration)
        coded = quantizers.load("hptq").quantize(weight, fmt, calibration)
        assert coded.storage_bytes <= clipped.storage_bytes
        assert 8 * coded.storage_bytes / weight.size > fmt.bits_per_value - 0.03
        best = relative(coded, weight, calibration)
        assert best < 0.5 * relative(clipped, weight, calibration)
        assert best < relative(nearest, weight, calibration)
        integers = np.rint(coded.values / np.float32(coded.facts["scale"])).astype(int)
        code = HuffmanCode.of(integers)
        assert coded.storage_bytes == len(code.encode(integers)) + code.table_bytes + 4


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05])
def test_sparse_outliers_stay_within_their_share_and_lower_the_error(share):
    weight, calibration = heavy_layer(np.random.default_rng(13))
    fmt = load_weight_format("int4-g128")
    found = quantizers.load("ssqr", outliers=share).quantize(weight, fmt, calibration)
    assert found.facts["outliers"] <= share
    if share:
        clipped = quantizers.load("gptq-act-order").quantize(weight, fmt, calibration)
        assert relative(found, weight, calibration) < 0.5 * relative(clipped, weight, calibration)
    sparse = found.storage_bytes - encode_blocks(weight, fmt).storage_bytes
    assert sparse == 4 * round(found.facts["outliers"] * weight.size) + 4 * (len(weight) + 1)


def test_unclipped_variants_refuse_what_they_cannot_store():
    weight, calibration = layer(np.random.default_rng(14))
    with pytest.raises(InvalidInput, match="symmetric integer grid"):
        quantizers.load("ssqr").quantize(weight, load_weight_format("nvfp4"), calibration)
    with pytest.raises(InvalidInput, match=r"0 to 0\.5"):
        quantizers.load("ssqr", outliers=0.7).quantize(
            weight, load_weight_format("int4-g128"), calibration
        )
    with pytest.raises(InvalidInput, match="between 1 and 16 bits"):
        quantizers.load("hptq").quantize(weight, load_format("fp32"), calibration)
