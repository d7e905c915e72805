"""The accelerator and cluster catalogs: one contract for every entry, and published figures."""

import csv
import json
import math
import os
import tomllib
from pathlib import Path

import pytest

from isoflop import catalog
from isoflop.cost.kernels.calibration import DEFAULT, ancestry, load_kernels
from isoflop.errors import InvalidInput, UnknownName
from isoflop.formats import load_format
from isoflop.hardware import (
    ACCELERATORS,
    CLUSTERS,
    Cluster,
    Tier,
    load_accelerator,
    load_cluster,
    load_fleet,
)
from isoflop.training.calibration import load_training

DEVICE_IDS = list(catalog.paths(ACCELERATORS))
CLUSTER_IDS = list(catalog.paths(CLUSTERS))
RATE_NAMES = {"fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "int8", "int4"}

# Device strings of the measured data that name no single device, and why.
UNRESOLVABLE = {
    "Ampere": "an architecture, not a device",
    "24GB-GPU+CPU": "an unnamed GPU with CPU offload",
    "GPU+CPU offload": "an unnamed GPU with CPU offload",
}


def shared_data() -> Path:
    beside = Path(__file__).resolve().parents[1].parent / "shared"
    root = Path(os.environ.get("ISOFLOP_SHARED", beside)) / "data"
    if not root.is_dir():
        pytest.skip("the measured data is not beside the project and ISOFLOP_SHARED is not set")
    return root


def raw(kind, name):
    return tomllib.loads(catalog.paths(kind)[name].read_text(encoding="utf-8"))


def rate16(device):
    """The best 16-bit rate, or the widest a device without 16-bit units has."""
    rates = device.rates.dense_flop_per_s
    return next(rates[n] for n in ("bf16", "fp16", "fp32", "int8") if n in rates)


def test_the_catalogs_are_as_large_as_promised():
    assert len(DEVICE_IDS) >= 50
    assert len(CLUSTER_IDS) >= 20


@pytest.mark.parametrize("name", DEVICE_IDS)
def test_accelerator_contract(name):
    device = load_accelerator(name)
    assert device.id == name
    assert catalog.normal(name) == name, "an id is written the way names are compared"
    memory, compute, rates, links = device.memory, device.compute, device.rates, device.links
    for value in (memory.capacity_bytes, memory.bandwidth_bytes_per_s, compute.units):
        assert value > 0
    for value in (compute.clock_hz, rates.vector_flop_per_s, links.host_bytes_per_s):
        assert value > 0
    assert set(rates.dense_flop_per_s) <= RATE_NAMES
    assert rates.dense_flop_per_s
    assert 2e8 < compute.clock_hz < 4e9
    assert 0 <= memory.cache_bytes < memory.capacity_bytes
    assert 0 <= compute.local_bytes <= 256 * 2**20
    assert len(compute.array) in (0, 2)
    assert 1e-7 <= device.overhead.launch_s <= 1e-3


@pytest.mark.parametrize("name", DEVICE_IDS)
def test_narrower_formats_are_not_slower(name):
    rates = load_accelerator(name).rates.dense_flop_per_s
    ladder = [rates[n] for n in ("bf16", "fp8", "fp4") if n in rates]
    assert ladder == sorted(ladder)
    ladder = [rates[n] for n in ("fp64", "fp32", "tf32", "bf16") if n in rates]
    assert ladder == sorted(ladder)
    assert rates.get("fp6", math.inf) >= rates.get("fp8", 0.0)
    # Rubin widens its narrow formats alone: 17.5 beside 4 PFLOP/s, both printed as dense.
    if "bf16" in rates and "fp8" in rates and load_accelerator(name).family != "rubin":
        assert rates["fp8"] / rates["bf16"] <= 2.05, "more than twice bf16: a sparse figure?"


@pytest.mark.parametrize("name", DEVICE_IDS)
def test_ridge_point_is_plausible(name):
    device = load_accelerator(name)
    ridge = rate16(device) / device.memory.bandwidth_bytes_per_s
    high = 10_000 if device.kind == "systolic" else 800
    assert 15 <= ridge <= high, f"{ridge:.0f} FLOP/byte"


@pytest.mark.parametrize("name", DEVICE_IDS)
def test_the_rate_per_unit_and_cycle_is_a_power_of_two(name):
    """Matrix units do a power of two operations a cycle: catches sparse rates and wrong clocks."""
    device = load_accelerator(name)
    per_cycle = rate16(device) / (device.compute.units * device.compute.clock_hz)
    exponent = math.log2(per_cycle)
    assert abs(exponent - round(exponent)) < 0.05, f"{per_cycle:.1f} operations a cycle"


@pytest.mark.parametrize("name", DEVICE_IDS)
def test_power_and_price(name):
    device = load_accelerator(name)
    assert 0 < device.power.idle_watts < device.power.board_watts <= 1800
    if device.price is not None:
        assert 0.1 < device.price.on_demand_usd_per_hour < 25
        assert device.price.source in device.sources, "a price is cited, never estimated"


@pytest.mark.parametrize("name", DEVICE_IDS)
def test_links_are_per_direction(name):
    links = load_accelerator(name).links
    per_direction = {"NVLink 2": 150e9, "NVLink 3": 300e9, "NVLink 4": 450e9, "NVLink 5": 900e9,
                     "NVLink 6": 1800e9}  # fmt: skip
    expected = per_direction.get(links.scale_up_name)
    if expected:
        assert links.scale_up_bytes_per_s == expected
    if links.scale_up_bytes_per_s:
        assert links.scale_up_name
        assert links.scale_up_domain > 1
        assert 10e9 <= links.scale_up_bytes_per_s <= 1.8e12
        assert links.scale_up_bytes_per_s < load_accelerator(name).memory.bandwidth_bytes_per_s
    else:
        assert links.scale_up_domain == 1
    pcie = {"PCIe 3.0 x16": 16e9, "PCIe 4.0 x16": 32e9, "PCIe 5.0 x16": 64e9}
    assert links.host_bytes_per_s == pcie.get(links.host_name, links.host_bytes_per_s)


@pytest.mark.parametrize(
    ("kind", "name"),
    [*((ACCELERATORS, n) for n in DEVICE_IDS), *((CLUSTERS, n) for n in CLUSTER_IDS)],
)
def test_sources_are_complete_and_used(kind, name):
    table = raw(kind, name)
    used = set()

    def visit(node):
        if isinstance(node, dict):
            used.add(node.get("source"))
            for key, child in node.items():
                if key != "sources":
                    visit(child)
        elif isinstance(node, list):
            for child in node:
                visit(child)

    visit(table)
    for key, source in table.get("sources", {}).items():
        assert source["title"], key
        assert source.get("date"), key
        assert source.get("locator"), key
    assert set(table.get("sources", {})) <= used


@pytest.mark.parametrize("kind", [ACCELERATORS, CLUSTERS])
def test_aliases_are_unique(kind):
    owner = {}
    for name in catalog.paths(kind):
        for alias in {catalog.normal(a) for a in [name, *raw(kind, name).get("aliases", [])]}:
            assert owner.setdefault(alias, name) == name, f"'{alias}' names two entries"


def test_no_alias_of_a_cluster_is_a_device():
    for name in CLUSTER_IDS:
        for alias in [name, *raw(CLUSTERS, name).get("aliases", [])]:
            with pytest.raises(UnknownName):
                load_accelerator(alias)


@pytest.mark.parametrize(
    ("name", "rate", "tflop"),
    [
        # Dense figures as published; each is half of a sparse one where both are printed.
        ("h100-sxm", "bf16", 989.4),
        ("h100-pcie", "bf16", 756),
        ("h100-nvl", "bf16", 835.5),
        ("h20", "fp8", 296),
        ("l40s", "bf16", 362),
        ("rtx-3090", "fp16", 71),
        ("rtx-4090", "bf16", 165.2),
        ("rtx-4090", "fp8", 330.3),
        ("rtx-5090", "bf16", 209.5),
        ("b200", "fp4", 9000),
        ("gb200", "bf16", 2500),
        ("mi300x", "fp8", 2614.9),
        ("tpu-v5e", "int8", 393),
        ("trainium-2", "fp8", 1299),
    ],
)
def test_published_dense_rates(name, rate, tflop):
    assert load_accelerator(name).rates.dense_flop_per_s[rate] == pytest.approx(tflop * 1e12)


def test_export_variants_differ_only_where_they_should():
    for cut, full in (("h800", "h100-sxm"), ("a800-80gb-sxm", "a100-80gb-sxm")):
        a, b = load_accelerator(cut), load_accelerator(full)
        assert a.links.scale_up_bytes_per_s == 200e9 < b.links.scale_up_bytes_per_s
        assert a.memory.bandwidth_bytes_per_s == b.memory.bandwidth_bytes_per_s
        for rate in ("tf32", "bf16", "int8"):
            assert a.rates.dense_flop_per_s[rate] == b.rates.dense_flop_per_s[rate]


@pytest.mark.parametrize(
    ("device", "fmt", "expected"),
    [
        ("h100-sxm", "fp8", "fp8"),
        ("a100", "fp8", "bf16"),
        ("v100", "bf16", "fp16"),
        ("h100-sxm", "nvfp4", "bf16"),
        ("b200", "nvfp4", "fp4"),
        ("rtx-4090", "int4-awq", "bf16"),
        ("p40", "q4_k_m", "fp32"),
        ("a100", "int8", "int8"),
    ],
)
def test_matrix_rate_falls_to_the_next_format(device, fmt, expected):
    accelerator = load_accelerator(device)
    rate, name = accelerator.matrix_rate(load_format(fmt))
    assert name == expected
    assert rate == accelerator.rates.dense_flop_per_s[expected]


def test_matrix_rate_without_units_is_refused_in_words():
    with pytest.raises(InvalidInput, match=r"Edge TPU has no matrix rate usable for IEEE binary64"):
        load_accelerator("edge-tpu").matrix_rate(load_format("fp64"))


@pytest.mark.parametrize("name", CLUSTER_IDS)
def test_cluster_contract(name):
    cluster = load_cluster(name)
    device = load_accelerator(cluster.accelerator)
    assert cluster.devices_per_node >= 1
    sizes = [t.devices for t in cluster.tiers]
    assert all(size > 1 for size in sizes)
    assert sizes == sorted(set(sizes))
    if cluster.max_devices is not None and sizes:
        assert sizes[-1] == cluster.max_devices
    speeds = [t.link_bytes_per_s for t in cluster.tiers]
    assert speeds == sorted(speeds, reverse=True), "tiers slow down outwards"
    for tier in cluster.tiers:
        assert 1e9 <= tier.link_bytes_per_s <= 1.8e12
        assert 1e-7 <= tier.latency_s <= 1e-4
    scale_up = device.links.scale_up_bytes_per_s
    node = next((t for t in cluster.tiers if t.devices >= cluster.devices_per_node), None)
    if scale_up and node is not None:
        assert node.link_bytes_per_s == scale_up, "the node's tier is the device's own link"
    assert cluster.host is not None
    assert 16e9 <= cluster.host.memory_bandwidth_bytes_per_s <= 5e13
    assert cluster.host.memory_bytes >= 64e9


def test_tiers_that_do_not_grow_are_refused():
    tier = Tier(name="a", devices=8, link_bytes_per_s=1e9, latency_s=1e-6, source="x")
    with pytest.raises(InvalidInput, match="must grow outwards"):
        Cluster(id="x", name="X", accelerator="h100", devices_per_node=8, tiers=(tier, tier))


@pytest.mark.parametrize(
    ("text", "device", "count", "cluster"),
    [
        ("h100-sxm", "h100-sxm", 1, None),
        ("8xh100-sxm", "h100-sxm", 8, None),
        ("8x h100", "h100-sxm", 8, None),
        ("2xrtx-4090", "rtx-4090", 2, None),
        ("rtx-4090", "rtx-4090", 1, None),
        ("512xdgx-h100", "h100-sxm", 512, "dgx-h100"),
        ("dgx-h100", "h100-sxm", 8, "dgx-h100"),
        ("gb200-nvl72", "gb200", 72, "gb200-nvl72"),
        ("4480xmarenostrum-5-acc", "h100-64gb", 4480, "marenostrum-5-acc"),
    ],
)
def test_load_fleet(text, device, count, cluster):
    found, number, where = load_fleet(text)
    assert found.id == device
    assert number == count
    assert (where.id if where else None) == cluster


@pytest.mark.parametrize(
    ("text", "says"), [("0xh100", "at least one"), ("4481xmn5", "has 4480"), ("0xdgx-h100", "0")]
)
def test_load_fleet_refuses_counts(text, says):
    with pytest.raises(InvalidInput, match=says):
        load_fleet(text)


@pytest.mark.parametrize(
    "text",
    ["", "x", "8x", "nonsense", "-1xh100", "2.5xh100", "²xh100", "8xx", "9" * 5000 + "xh100"],
)
def test_load_fleet_refuses_nonsense(text):
    with pytest.raises(UnknownName):
        load_fleet(text)


def test_a_fleet_names_its_own_price():
    device, count, cluster = load_fleet("64xdgx-h100@2.10")
    assert device.price is not None
    assert (device.price.on_demand_usd_per_hour, count) == (2.10, 64)
    assert cluster is not None
    assert device.price.named == "2.1 USD per device-hour"
    assert load_fleet("64xdgx-h100")[0].price != device.price


@pytest.mark.parametrize(
    "text", ["l40s@", "l40s@free", "l40s@-1", "l40s@0", "l40s@nan", "l40s@1e999"]
)
def test_a_price_is_a_positive_number(text):
    with pytest.raises(InvalidInput, match="USD per device-hour"):
        load_fleet(text)


def test_load_fleet_suggests():
    with pytest.raises(UnknownName) as caught:
        load_fleet("8xh100-smx")
    assert "h100-sxm" in caught.value.suggestions


# --- every device string of the measured data resolves ----------------------------------------


def strings_of(path, column):
    with path.open(newline="", encoding="utf-8") as handle:
        return {row[column] for row in csv.DictReader(handle)}


@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("serving/measurements.csv", "gpu"),
        ("serving/silicon_agg.csv", "system"),
        ("training/measurements.csv", "gpu"),
    ],
)
def test_device_strings_of_the_tables_resolve(file, column):
    found = strings_of(shared_data() / file, column)
    assert found
    for text in sorted(found - {""}):
        if text in UNRESOLVABLE:
            with pytest.raises(UnknownName):
                load_accelerator(text)
        else:
            load_accelerator(text)


def test_device_strings_of_the_operator_tables_resolve():
    pq = pytest.importorskip("pyarrow.parquet", reason="reading parquet needs pyarrow")
    root = shared_data() / "operators" / "aiconfigurator"
    found = set()
    for path in root.rglob("*.parquet"):
        device = load_accelerator(path.relative_to(root).parts[0])
        names = set(pq.read_table(path, columns=["device"]).column(0).unique().to_pylist())
        assert {load_accelerator(n).id for n in names} == {device.id}
        found |= names
    assert len(found) >= 4


def test_folder_names_of_the_other_operator_data_resolve():
    root = shared_data() / "operators"
    for path in (root / "vidur" / "compute").iterdir():
        assert load_accelerator(path.name).id in {"a100-80gb-sxm", "h100-sxm"}
    for path in (root / "vidur" / "network").iterdir():
        assert load_cluster(path.name).id in {"dgx-a100", "dgx-h100"}
    for path in (root / "infersim" / "bench_data" / "gemm").iterdir():
        assert load_accelerator(path.name).family == "hopper"


def test_entries_survive_json():
    """Catalog values are plain numbers and strings, so answers that quote them can be JSON."""
    for name in DEVICE_IDS:
        json.dumps(raw(ACCELERATORS, name), allow_nan=False)


def test_a_new_family_runs_the_kernels_of_those_it_descends_from():
    """Rubin after Blackwell, whose training is measured, after Hopper, whose kernels are."""
    assert list(ancestry("rubin")) == ["rubin", "blackwell", "hopper"]
    assert load_kernels("rubin")[0].family == "hopper"
    training, own = load_training("rubin")
    assert (training.family, own) == ("blackwell", False)
    assert list(ancestry("gaudi")) == ["gaudi"]
    assert load_kernels("gaudi")[0].family == DEFAULT
