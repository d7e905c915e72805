"""Accelerator and cluster catalogs: one contract over every entry, and fleet strings."""

import csv
import os
from pathlib import Path

import pytest

from isoflop import catalog
from isoflop.errors import InvalidInput, UnitError, UnknownName
from isoflop.formats import load_format
from isoflop.hardware import (
    ACCELERATORS,
    CLUSTERS,
    Accelerator,
    Cluster,
    Memory,
    Rates,
    Tier,
    load_accelerator,
    load_cluster,
    load_fleet,
)

SHARED = Path(os.environ.get("ISOFLOP_SHARED", Path(__file__).parents[1] / ".." / "shared"))
NAMES_NO_DEVICE = {"", "24GB-GPU+CPU", "GPU+CPU offload", "Ampere"}
WIDER = [("fp4", "fp8"), ("fp6", "fp8"), ("fp8", "bf16"), ("bf16", "tf32"), ("tf32", "fp32"),
         ("int4", "int8"), ("int8", "bf16"), ("fp16", "fp32")]  # fmt: skip


@pytest.fixture(params=list(catalog.paths(ACCELERATORS)))
def device(request):
    return load_accelerator(request.param)


@pytest.fixture(params=list(catalog.paths(CLUSTERS)))
def cluster(request):
    return load_cluster(request.param)


def test_there_are_entries():
    assert len(catalog.paths(ACCELERATORS)) >= 50
    assert len(catalog.paths(CLUSTERS)) >= 20


class TestEveryAccelerator:
    def test_loads_with_its_file_name_as_id(self, device):
        assert isinstance(device, Accelerator)
        assert load_accelerator(device.id) is device

    def test_quantities_are_positive(self, device):
        assert device.memory.capacity_bytes > 0
        assert device.memory.cache_bytes >= 0
        assert device.compute.units >= 1
        assert device.compute.clock_hz > 1e8
        assert device.compute.local_bytes > 0
        assert device.rates.vector_flop_per_s > 0
        assert device.rates.dense_flop_per_s
        assert device.links.host_bytes_per_s > 0
        assert device.links.scale_up_domain >= 1
        assert 0 < device.overhead.launch_s < 1e-3
        assert device.price is None or device.price.on_demand_usd_per_hour > 0

    def test_narrower_operands_are_not_slower(self, device):
        rates = device.rates.dense_flop_per_s
        for narrow, wide in WIDER:
            # Blackwell Ultra trades its int8 units for fp4 ones.
            if device.id in ("b300", "gb300") and narrow == "int8":
                continue
            if narrow in rates and wide in rates:
                assert rates[narrow] >= 0.999 * rates[wide], (narrow, wide)

    def test_rate_names_are_known(self, device):
        known = {"fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "int8", "int4"}
        assert set(device.rates.dense_flop_per_s) <= known

    def test_idles_below_its_limit(self, device):
        assert 0 < device.power.idle_watts < device.power.board_watts

    def test_16_bit_ridge_point_is_sane(self, device):
        if device.kind == "systolic":
            pytest.skip("has no floating-point units")
        rate, _ = device.matrix_rate(load_format("bf16"))
        ridge = rate / device.memory.bandwidth_bytes_per_s
        low, high = (5, 500) if device.kind in ("cpu", "apple") else (25, 900)
        assert low < ridge < high

    def test_vector_rate_does_not_exceed_the_best_matrix_rate(self, device):
        best = max(device.rates.dense_flop_per_s.values())
        assert device.rates.vector_flop_per_s <= 1.001 * best

    def test_links_have_a_name_and_peers(self, device):
        if device.links.scale_up_bytes_per_s:
            assert device.links.scale_up_name
            assert device.links.scale_up_domain > 1
        assert device.links.host_name

    def test_array_has_two_sides(self, device):
        assert len(device.compute.array) in (0, 2)

    def test_systolic_kinds_name_their_array(self, device):
        if device.kind in ("tpu", "systolic"):
            assert device.compute.array


@pytest.mark.parametrize("kind", [ACCELERATORS, CLUSTERS, "formats"])
def test_names_are_unique(kind):
    owner = {}
    for stem, path in catalog.paths(kind).items():
        names = {catalog.normal(n) for n in [stem, *catalog.read_toml(path).get("aliases", [])]}
        for name in names:
            assert owner.setdefault(name, stem) == stem, name


@pytest.mark.parametrize(
    ("name", "rate", "tflops"),
    [
        ("rtx-3090", "bf16", 71), ("rtx-4090", "bf16", 165.2), ("rtx-5090", "bf16", 209.5),
        ("b200", "bf16", 2250), ("b200", "fp8", 4500), ("b200", "fp4", 9000),
        ("gb200", "bf16", 2500), ("gb200", "fp8", 5000), ("gb200", "fp4", 10000),
        ("h20", "bf16", 148), ("h20", "fp8", 296), ("h100-pcie", "bf16", 756),
        ("h100-nvl", "bf16", 835), ("a100-pcie-80gb", "bf16", 312), ("v100", "fp16", 125),
        ("mi300x", "bf16", 1307.4), ("tpu-v4", "bf16", 275), ("tpu-v5e", "bf16", 197),
    ],
)  # fmt: skip
def test_published_dense_rates(name, rate, tflops):
    assert load_accelerator(name).rates.dense_flop_per_s[rate] == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize("name", ["tpu-v3", "tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e", "edge-tpu"])
def test_array_times_clock_gives_the_peak_rate(name):
    device = load_accelerator(name)
    rows, columns = device.compute.array
    per_array = 2 * rows * columns * device.compute.clock_hz
    rates = device.rates.dense_flop_per_s
    arrays = rates.get("bf16", rates.get("int8")) / per_array
    assert arrays == pytest.approx(round(arrays), rel=0.03)


@pytest.mark.parametrize(("cut", "full"), [("h800", "h100-sxm"), ("a800", "a100-sxm-40gb")])
def test_export_parts_differ_in_nvlink(cut, full):
    a, b = load_accelerator(cut), load_accelerator(full)
    assert a.links.scale_up_bytes_per_s == 200e9 < b.links.scale_up_bytes_per_s
    assert a.rates.dense_flop_per_s["bf16"] == b.rates.dense_flop_per_s["bf16"]


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("H100-64GB-MN5", "h100-64gb"), ("h100_64gb", "h100-64gb"), ("b200_sxm", "b200"),
        ("B200-180GB-SXM", "b200"), ("GB200-192GB-NVL72", "gb200"), ("mi250x_gcd", "mi250x"),
        ("RTX-PRO-6000", "rtx-pro-6000"), ("RTX-PRO-6000-Blackwell-SE", "rtx-pro-6000-se"),
        ("H100-80GB-PCIe", "h100-pcie"), ("A100-80GB-PCIe", "a100-pcie-80gb"),
        ("Apple-M1-Max-32GPU-64GB", "m1-max"), ("NVIDIA GeForce RTX 4090", "rtx-4090"),
    ],
)  # fmt: skip
def test_aliases(name, device):
    assert load_accelerator(name).id == device


@pytest.mark.parametrize(
    ("path", "column"),
    [
        ("serving/measurements.csv", "gpu"),
        ("serving/silicon_agg.csv", "system"),
        ("training/measurements.csv", "gpu"),
    ],
)
def test_measured_devices_resolve(path, column):
    file = SHARED / "data" / path
    if not file.is_file():
        pytest.skip("the measurements are not here")
    with file.open(newline="", encoding="utf-8") as stream:
        names = {row[column] for row in csv.DictReader(stream)} - NAMES_NO_DEVICE
    unknown = []
    for name in sorted(names):
        try:
            load_accelerator(name)
        except UnknownName:
            unknown.append(name)
    assert not unknown


class TestMatrixRate:
    def test_native(self):
        assert load_accelerator("b200").matrix_rate(load_format("nvfp4")) == (9e15, "fp4")

    def test_falls_back_to_a_wider_rate(self):
        device = load_accelerator("h100-sxm")
        assert device.matrix_rate(load_format("nvfp4"))[1] == "bf16"
        assert load_accelerator("v100").matrix_rate(load_format("bf16"))[1] == "fp16"
        assert load_accelerator("p40").matrix_rate(load_format("bf16"))[1] == "fp32"

    def test_none_is_an_error_that_lists_both_sides(self):
        with pytest.raises(InvalidInput, match=r"bf16.*int8"):
            load_accelerator("edge-tpu").matrix_rate(load_format("bf16"))


class TestEveryCluster:
    def test_device_exists(self, cluster):
        assert isinstance(cluster, Cluster)
        assert load_accelerator(cluster.accelerator).id == cluster.accelerator

    def test_tiers_grow_and_slow_down_outwards(self, cluster):
        assert cluster.tiers
        sizes = [t.devices for t in cluster.tiers]
        speeds = [t.link_bytes_per_s for t in cluster.tiers]
        assert sizes == sorted(sizes)
        assert speeds == sorted(speeds, reverse=True)
        assert min(speeds) > 0
        assert all(0 < t.latency_s < 1e-3 for t in cluster.tiers)

    def test_node_and_machine_fit_the_tiers(self, cluster):
        largest = cluster.tiers[-1].devices
        assert 1 <= cluster.devices_per_node <= largest
        assert cluster.max_devices is None or cluster.max_devices <= largest
        assert all(t.devices > 1 for t in cluster.tiers)

    def test_inner_tier_is_the_devices_own_link(self, cluster):
        links = load_accelerator(cluster.accelerator).links
        inner = cluster.tiers[0].link_bytes_per_s
        if links.scale_up_bytes_per_s:
            assert inner == pytest.approx(links.scale_up_bytes_per_s)
        else:
            assert inner <= links.host_bytes_per_s

    def test_host_is_sane(self, cluster):
        if cluster.host is not None:
            assert cluster.host.memory_bytes > 2**30
            assert cluster.host.memory_bandwidth_bytes_per_s > 1e10


def test_tiers_that_shrink_are_refused():
    tier = {"link_bytes_per_s": 1e9, "latency_s": 1e-6, "source": "x"}
    with pytest.raises(InvalidInput, match="grow outwards"):
        Cluster(
            id="x", name="X", accelerator="b200", devices_per_node=8,
            tiers=(Tier(name="a", devices=8, **tier), Tier(name="b", devices=8, **tier)),
        )  # fmt: skip


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_facts_are_refused(value):
    with pytest.raises(UnitError):
        Memory(capacity_bytes=value, bandwidth_bytes_per_s=1e12, source="x")
    with pytest.raises(UnitError):
        Memory(capacity_bytes=1e9, bandwidth_bytes_per_s=value, source="x")
    with pytest.raises(UnitError, match="bf16"):
        Rates(dense_flop_per_s={"bf16": value}, vector_flop_per_s=1e12, source="x")


class TestFleet:
    @pytest.mark.parametrize(
        ("text", "device", "count", "cluster"),
        [
            ("h100-sxm", "h100-sxm", 1, None),
            ("8xh100-sxm", "h100-sxm", 8, None),
            ("8x h100", "h100-sxm", 8, None),
            ("2xRTX-4090", "rtx-4090", 2, None),
            ("xeon-8480+", "xeon-8480p", 1, None),
            ("4xXeon-8480", "xeon-8480p", 4, None),
            ("dgx-h100", "h100-sxm", 8, "dgx-h100"),
            ("512xdgx-h100", "h100-sxm", 512, "dgx-h100"),
            ("gb200-nvl72", "gb200", 4, "gb200-nvl72"),
            ("frontier", "mi250x", 8, "frontier"),
        ],
    )
    def test_cases(self, text, device, count, cluster):
        found, number, network = load_fleet(text)
        assert (found.id, number, network and network.id) == (device, count, cluster)

    def test_zero_devices(self):
        with pytest.raises(InvalidInput, match="at least one"):
            load_fleet("0xh100-sxm")

    @pytest.mark.parametrize("text", ["", "8x", "8xh1000-sxm", "-1xh100-sxm", "nonesuch"])
    def test_unknown(self, text):
        with pytest.raises(UnknownName):
            load_fleet(text)


def test_unknown_accelerator_suggests_near_names():
    with pytest.raises(UnknownName) as caught:
        load_accelerator("h100-sxmm")
    assert "h100-sxm" in caught.value.suggestions
    assert "catalog list accelerators" in str(caught.value)
