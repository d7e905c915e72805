"""Number formats: bits, scales, aliases and the rates they run at."""

import pytest

from isoflop import catalog
from isoflop.errors import InvalidInput, UnknownName
from isoflop.formats import KIND, BlockScale, NumberFormat, load_format
from isoflop.hardware import ACCELERATORS, load_accelerator

RATES = {"fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "int8", "int4"}


@pytest.fixture(params=list(catalog.paths(KIND)))
def fmt(request):
    return load_format(request.param)


def test_contract(fmt):
    assert isinstance(fmt, NumberFormat)
    assert 1 <= fmt.bits <= 64
    assert fmt.bits <= fmt.bits_per_value < fmt.bits + 2
    assert fmt.bytes_per_value == fmt.bits_per_value / 8
    assert fmt.rates_as
    assert set(fmt.rates_as) <= RATES


def test_fields_fit_the_code_word(fmt):
    if fmt.exponent_bits is not None and fmt.id != "tf32":
        assert 1 + fmt.exponent_bits + fmt.mantissa_bits == fmt.bits


def test_storage_formats_multiply_in_16_bits(fmt):
    if fmt.role == "storage":
        assert fmt.rates_as[0] in ("bf16", "fp16")


def test_every_gpu_runs_every_narrow_format(fmt):
    if fmt.id == "fp64":
        pytest.skip("not every device lists fp64")
    for name in catalog.paths(ACCELERATORS):
        device = load_accelerator(name)
        if device.kind == "gpu":
            rate, used = device.matrix_rate(fmt)
            assert rate > 0
            assert used in fmt.rates_as


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("bf16", 16), ("fp8-e4m3", 8), ("fp8-block", 8 + 32 / 16384), ("mxfp8", 8.25),
        ("mxfp6", 6.25), ("mxfp4", 4.25), ("nvfp4", 4.5), ("int4-g128", 4 + 20 / 128),
        ("int4-q4f16-1", 4.5), ("nf4", 4.5), ("q4-0", 4.5), ("q5-1", 6.0), ("q8-0", 8.5),
        ("q4-k-m", 4.83), ("exl2-2.5bpw", 2.5), ("exl2-4.0bpw", 4.0), ("exl2-5.0bpw", 5.0),
    ],
)  # fmt: skip
def test_bits_per_value(name, bits):
    assert load_format(name).bits_per_value == pytest.approx(bits)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("fp4", "nvfp4"), ("fp8", "fp8-e4m3"), ("fp8_e4m3", "fp8-e4m3"), ("f16", "fp16"),
        ("fp8_block", "fp8-block"), ("w4a16_mxfp4", "mxfp4"), ("mxfp8", "mxfp8-e4m3"),
        ("mxfp6", "mxfp6-e2m3"), ("int4-awq", "int4-g128"), ("int4-gptq-g128", "int4-g128"),
        ("int4_wo", "int4-g128"), ("int4-q4f16_1", "int4-q4f16-1"), ("Q4_K_M", "q4-k-m"),
    ],
)  # fmt: skip
def test_aliases(alias, name):
    assert load_format(alias).id == name


def test_unknown_format_suggests_near_names():
    with pytest.raises(UnknownName) as caught:
        load_format("mxfp5")
    assert {"mxfp4", "mxfp6"} & set(caught.value.suggestions)


@pytest.mark.parametrize(("bits", "block"), [(-1, 32), (8, 0), (8, -4)])
def test_impossible_scales(bits, block):
    with pytest.raises(InvalidInput):
        BlockScale(bits=bits, block=block)
