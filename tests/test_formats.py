"""The number-format catalog: bits per value from the specifications, and every data string."""

import csv
import os
import tomllib
from pathlib import Path

import pytest

from isoflop import catalog
from isoflop.errors import InvalidInput, UnknownName
from isoflop.formats import KIND, BlockScale, NumberFormat, load_format

IDS = list(catalog.paths(KIND))
RATE_NAMES = {"fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "int8", "int4"}


def shared_data() -> Path:
    beside = Path(__file__).resolve().parents[1].parent / "shared"
    root = Path(os.environ.get("ISOFLOP_SHARED", beside)) / "data"
    if not root.is_dir():
        pytest.skip("the measured data is not beside the project and ISOFLOP_SHARED is not set")
    return root


@pytest.mark.parametrize("name", IDS)
def test_format_contract(name):
    fmt = load_format(name)
    assert fmt.id == name
    assert catalog.normal(name) == name
    assert 1 <= fmt.bits <= 64
    assert fmt.bits <= fmt.bits_per_value < fmt.bits + 1.2
    assert fmt.bytes_per_value == fmt.bits_per_value / 8
    assert fmt.rates_as
    assert set(fmt.rates_as) <= RATE_NAMES
    assert len(set(fmt.rates_as)) == len(fmt.rates_as)
    assert fmt.sources["spec"].title
    assert fmt.sources["spec"].date
    if fmt.role == "storage":
        assert {"fp16", "bf16"} & set(fmt.rates_as[:2]), "weights are expanded to 16 bits"
    if fmt.exponent_bits is not None:
        assert fmt.mantissa_bits is not None
        word = 1 + fmt.exponent_bits + fmt.mantissa_bits
        assert word == (19 if name == "tf32" else fmt.bits)


def test_aliases_are_unique():
    owner = {}
    for name, path in catalog.paths(KIND).items():
        aliases = tomllib.loads(path.read_text(encoding="utf-8")).get("aliases", [])
        for alias in {catalog.normal(a) for a in [name, *aliases]}:
            assert owner.setdefault(alias, name) == name, f"'{alias}' names two formats"


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        # Bytes of one block as its specification lays it out, over the values it holds.
        ("fp32", 32),
        ("tf32", 32),
        ("bf16", 16),
        ("mxfp8", (32 * 8 + 8) / 32),
        ("mxfp6", (32 * 6 + 8) / 32),
        ("mxfp4", (32 * 4 + 8) / 32),
        ("nvfp4", (16 * 4 + 8) / 16),
        ("fp8_block", (128 * 128 * 8 + 32) / 128**2),
        ("int4-gptq-g128", (128 * 4 + 16) / 128),
        ("int4-awq", (128 * 4 + 16 + 4) / 128),
        ("nf4", (64 * 4 + 32) / 64),
        ("nf4-dq", 4 + 0.127),  # QLoRA, section 3: double quantisation costs 0.127 bits
        ("q4_0", 8 * 18 / 32),  # llama.cpp block sizes in bytes
        ("q4_1", 8 * 20 / 32),
        ("q5_0", 8 * 22 / 32),
        ("q5_1", 8 * 24 / 32),
        ("q8_0", 8 * 34 / 32),
        ("q6_k", 8 * 210 / 256),
        ("q4_k_m", 4.85),
        ("q4_k_s", 4.58),
        ("q5_k_m", 5.68),
        ("q3_k_s", 3.50),
        ("exl2-2.5bpw", 2.5),
        ("exl2-5.0bpw", 5.0),
    ],
)
def test_bits_per_value(name, bits):
    assert load_format(name).bits_per_value == pytest.approx(bits, abs=2e-3)


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        ("fp8", "fp8-e4m3"),
        ("e5m2", "fp8-e5m2"),
        ("half", "fp16"),
        ("bfloat16", "bf16"),
        ("fp4", "nvfp4"),
        ("int4", "int4"),
        ("int4_wo", "int4-g128"),
        ("w4a16_mxfp4", "mxfp4"),
        ("FP8_BLOCK", "fp8-block"),
    ],
)
def test_aliases(alias, expected):
    assert load_format(alias).id == expected


def test_unknown_format_suggests():
    with pytest.raises(UnknownName) as caught:
        load_format("fp8-e4m2")
    assert "fp8-e4m3" in caught.value.suggestions
    assert "There is no number format called 'fp8-e4m2'." in str(caught.value)


def test_element_layouts_match_ml_dtypes():
    """Independent oracle: exponent and mantissa widths of the same formats elsewhere."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="the oracle needs ml_dtypes")
    names = {
        "bf16": "bfloat16",
        "fp8-e4m3": "float8_e4m3fn",
        "fp8-e5m2": "float8_e5m2",
        "fp6-e2m3": "float6_e2m3fn",
        "fp6-e3m2": "float6_e3m2fn",
        "fp4-e2m1": "float4_e2m1fn",
    }
    for name, other in names.items():
        if not hasattr(ml_dtypes, other):
            continue
        info = ml_dtypes.finfo(getattr(ml_dtypes, other))
        fmt = load_format(name)
        assert (fmt.exponent_bits, fmt.mantissa_bits) == (info.nexp, info.nmant)
        assert fmt.bits == info.bits


@pytest.mark.parametrize(("bits", "block"), [(-1, 32), (8, 0), (8, -4)])
def test_a_scale_must_be_one(bits, block):
    with pytest.raises(InvalidInput, match="is not one"):
        BlockScale(bits=bits, block=block)


def test_nested_scales_add():
    scales = (BlockScale(bits=8, block=64), BlockScale(bits=32, block=64 * 256))
    fmt = NumberFormat(id="x", name="x", bits=4, scales=scales, source="estimate", note="a test")
    assert fmt.bits_per_value == 4 + 8 / 64 + 32 / 16384


@pytest.mark.parametrize(
    ("file", "columns"),
    [
        ("serving/measurements.csv", ("precision",)),
        ("serving/silicon_agg.csv", ("precision", "gemm_quant_mode", "moe_quant_mode")),
    ],
)
def test_precision_strings_of_the_tables_resolve(file, columns):
    path = shared_data() / file
    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    for column in columns:
        # A trailing question mark says that the source did not name the precision.
        found = {row[column].rstrip("?") for row in rows} - {""}
        assert found
        for text in found:
            load_format(text)


def test_precision_strings_of_the_operator_tables_resolve():
    pq = pytest.importorskip("pyarrow.parquet", reason="reading parquet needs pyarrow")
    columns = ("gemm_dtype", "attn_dtype", "kv_cache_dtype", "moe_dtype", "mla_dtype", "nccl_dtype")
    found = set()
    for path in (shared_data() / "operators" / "aiconfigurator").rglob("*.parquet"):
        for column in set(columns) & set(pq.read_schema(path).names):
            found |= set(pq.read_table(path, columns=[column]).column(0).unique().to_pylist())
    assert len(found) >= 5
    for text in found:
        load_format(text)
