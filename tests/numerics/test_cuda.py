"""Tensor bodies of rounding, on CPU tensors and where there is a GPU on it, bit for bit."""

import numpy as np
import pytest

from isoflop.errors import InvalidInput
from isoflop.numerics import (
    decode,
    encode,
    encode_blocks,
    format_names,
    load_format,
    round_to,
    tensors,
)
from isoflop.numerics.formats import BlockFormat, FloatFormat, PowerFormat
from isoflop.numerics.policies import PRESETS

torch = pytest.importorskip("torch")

MODES = (
    "nearest_even", "nearest_away", "nearest_zero", "toward_zero", "away_from_zero", "up", "down",
    "to_odd", "stochastic",
)  # fmt: skip
SCALARS = (
    *(n for n in format_names() if not isinstance(load_format(n), BlockFormat)),
    "e4m0fn", "e3m0fn", "e5m7", "e8m20", "p3109-8p1se", "p3109-8p3sf", "p3109-7p4ue",
    "p3109-12p4sf", "p3109-16p2se", "fixed8-f4", "ufixed6-f3", "power4-a0.5", "posit10-es3",
)  # fmt: skip
BLOCKS = (
    *(n for n in format_names() if isinstance(load_format(n), BlockFormat)),
    "mxfp4-ceil", "mxfp4-rceil", "mxfp4-even", "mxfp8-e4m3-rceil", "mxfp6-e2m3-even", "bfp12-n32",
    "int4-g128", "int4-g32-asym", "int8-channel",
)  # fmt: skip


@pytest.fixture(params=["cpu", "cuda"])
def device(request, monkeypatch):
    """Tensors on the CPU forced onto the tensor bodies, or on a GPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setattr(tensors, "EVERYWHERE", request.param == "cpu")
    monkeypatch.setattr(tensors, "PIECE", 3000)
    return request.param


def samples(dtype, count=9000):
    """Bit patterns of every exponent, values near 1, and the special values."""
    rng = np.random.default_rng(3)
    bits = {np.float16: np.uint16, np.float32: np.uint32, np.float64: np.uint64}[dtype]
    wild = rng.integers(0, 2 ** (8 * bits().itemsize), count // 2, dtype=bits).view(dtype)
    tame = rng.standard_normal(count // 2) * 2.0 ** rng.uniform(-12, 10, count // 2)
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.concatenate([wild, tame.astype(dtype)])
    x[:6] = [0, -0.0, np.inf, -np.inf, 1, -1]
    return x


def boundaries(fmt, dtype):
    """Values, midpoints and their neighbours in `dtype`, both signs."""
    steps = np.unique(np.linspace(0, fmt.max_index, 400).astype(int))
    with np.errstate(over="ignore"):
        low = np.array([fmt.value_of_index(int(i)) for i in steps])
        high = np.array([fmt.value_of_index(int(i) + 1) for i in steps])
        x = np.concatenate([low, (low + high) / 2, high]).astype(dtype)
        x = np.concatenate([x, np.nextafter(x, dtype(0)), np.nextafter(x, dtype(np.inf))])
    return np.concatenate([x, -x])


def same(a, b):
    both_nan = np.isnan(a) & np.isnan(b)
    return np.all(both_nan | ((a == b) & (np.signbit(a) == np.signbit(b))))


def outcome(function, *arguments, **options):
    """The result, or the sentence of the refusal."""
    try:
        return function(*arguments, **options)
    except InvalidInput as refusal:
        return str(refusal)


def agree(x, name, device, **options):
    """Values and codes of NumPy input equal those of the tensor on `device`."""
    t = torch.from_numpy(x).to(device)
    for function in (round_to, encode):
        expected = outcome(function, x, name, **options)
        got = outcome(function, t, name, **options)
        if isinstance(expected, str):
            assert got == expected
            continue
        assert got.device.type == device
        got = got.cpu().numpy()
        assert got.dtype == expected.dtype
        assert same(got, expected), (name, options, function.__name__)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", SCALARS)
def test_every_scalar_format_in_every_direction(device, name, dtype):
    fmt = load_format(name)
    x = samples(dtype)
    if isinstance(fmt, FloatFormat):
        x = np.concatenate([x, boundaries(fmt, dtype)])
    else:
        x = x[~np.isnan(x)]
    if isinstance(fmt, PowerFormat):
        x = x[:500]
    for rounding in MODES:
        options = {"rounding": rounding, "seed": 7}
        if isinstance(fmt, FloatFormat):
            options["nan"] = "opposite_zero"
        agree(x, name, device, **options)


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1", "e8m0", "bf16", "p3109-8p4se", "nf4"])
@pytest.mark.parametrize("like", PRESETS)
def test_every_preset(device, name, like):
    if like != "pychop" or name != "nf4":
        x = samples(np.float32)
        agree(x[~np.isnan(x)] if name in ("nf4", "e2m1") else x, name, device, like=like)


@pytest.mark.parametrize("overflow", ["format", "infinity", "nan", "saturate", "saturate_finite",
                                      "error", "pychop"])  # fmt: skip
@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1", "fp8-e4m3-ieee", "p3109-7p4ue"])
def test_every_overflow_policy(device, name, overflow):
    for x in (samples(np.float32), np.array([1, 2, 3e9, 4], np.float32)):
        for nan in ("format", "propagate", "zero", "max", "error"):
            agree(x, name, device, overflow=overflow, nan=nan)


def test_all_half_patterns(device):
    patterns = np.arange(65536, dtype=np.uint16)
    for kind in (torch.float16, torch.bfloat16):
        t = torch.from_numpy(patterns.view(np.int16)).view(kind)
        for name in ("e4m3", "e5m2", "e2m1", "e3m4"):
            values = round_to(t.to(device), name, nan="propagate").cpu()
            assert values.dtype == kind
            expected = round_to(t.float().numpy(), name, nan="propagate")
            assert same(values.float().numpy(), expected)


@pytest.mark.parametrize("bits", [1, 3, 17, 30, 31])
def test_stochastic_bits_seed_and_the_callers_words(device, bits):
    x = samples(np.float32)
    x = x[np.isfinite(x)]
    words = np.random.default_rng(0).integers(0, 2**32, x.size, dtype=np.uint32)
    for name in ("e4m3", "bf16", "fp32", "e3m0fn", "posit8", "nf4-element", "int8"):
        fmt = load_format("nf4").element if name == "nf4-element" else load_format(name)
        for options in ({"seed": 11}, {"random": words}):
            agree(x, fmt, device, rounding="stochastic", random_bits=bits, **options)
    t = torch.from_numpy(x).to(device)
    given = torch.from_numpy(words.view(np.int32)).to(device)
    a = round_to(t, "e4m3", rounding="stochastic", random_bits=bits, random=given)
    b = round_to(x, "e4m3", rounding="stochastic", random_bits=bits, random=words)
    assert same(a.cpu().numpy(), b)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_format(device, name):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((24, 256)) * 2.0 ** rng.integers(-60, 60, (24, 1))
    x[3], x[4, :128], x[5, 7] = 0.0, 0.0, -0.0
    for dtype in (np.float32, np.float64):
        for rounding in ("nearest_even", "toward_zero", "up", "stochastic", "microxcaling"):
            options = {"rounding": rounding, "seed": 2}
            if rounding == "microxcaling":
                options = {"like": rounding}
            t = torch.from_numpy(x.astype(dtype)).to(device)
            got = round_to(t, name, **options)
            assert got.dtype == t.dtype
            assert same(got.cpu().numpy(), round_to(x.astype(dtype), name, **options)), rounding
            ours = encode_blocks(t, name, **options)
            theirs = encode_blocks(x.astype(dtype), name, **options)
            assert ours.codes.device.type == device
            assert np.array_equal(ours.codes.cpu().numpy(), theirs.codes)
            assert np.array_equal(ours.scales.cpu().numpy(), theirs.scales)
            assert ours.storage_bytes == theirs.storage_bytes
            assert same(ours.decode().cpu().numpy(), theirs.decode())


def test_decode_and_its_refusals(device):
    for name in ("e4m3", "e2m1", "bf16", "posit16", "tf32", "int8"):
        codes = np.arange(min(load_format(name).code_count, 5000)).astype(np.int32)
        got = decode(torch.from_numpy(codes).to(device), name)
        assert got.device.type == device
        assert same(got.cpu().numpy(), decode(codes, name))
    with pytest.raises(InvalidInput, match="codes 0 to 15"):
        decode(torch.tensor([16], device=device), "e2m1")
    with pytest.raises(InvalidInput, match="integers are needed"):
        decode(torch.tensor([1.0], device=device), "e2m1")


def test_shapes_out_and_refusals(device):
    x = torch.randn(12, 8, device=device)
    expected = round_to(x.cpu().numpy(), "e4m3")
    assert round_to(x, "e4m3", out=x) is x
    assert same(x.cpu().numpy(), expected)
    turned = x.t()
    assert same(round_to(turned, "e2m1").cpu().numpy(), round_to(expected.T.copy(), "e2m1"))
    out = torch.zeros(8, 24, device=device)[:, ::2]
    assert round_to(turned, "e2m1", out=out) is out
    assert same(out.cpu().numpy(), round_to(expected.T.copy(), "e2m1"))
    assert round_to(torch.empty(0, 3, device=device), "e4m3").shape == (0, 3)
    assert encode(torch.tensor(1.1, device=device), "e4m3").shape == ()
    with pytest.raises(InvalidInput, match="must match x"):
        round_to(x, "e4m3", out=torch.zeros(3, device=device))
    with pytest.raises(InvalidInput, match="is int32"):
        round_to(torch.zeros(3, dtype=torch.int32, device=device), "e4m3")
    with pytest.raises(InvalidInput, match="cannot hold"):
        round_to(torch.zeros(3, dtype=torch.float16, device=device), "bf16")
    bad = torch.zeros(2, 32, device=device)
    bad[1, 3] = torch.nan
    with pytest.raises(InvalidInput, match=r"The value at \(1, 3\) is nan"):
        round_to(bad, "mxfp4")
    bad = torch.ones(5000, device=device)
    bad[4000] = torch.nan
    with pytest.raises(InvalidInput, match=r"Element 4000 .*is NaN"):
        round_to(bad, "e2m1")
