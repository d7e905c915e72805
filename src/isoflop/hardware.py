"""Accelerators and clusters: datasheet facts, each table with its source.

Fitted efficiencies are not here; they live in `data/calibrations/` apart from the facts.
"""

from __future__ import annotations

import math
from typing import Literal

from attrs import evolve, field, frozen

from . import catalog
from .errors import InvalidInput, UnknownName
from .formats import NumberFormat
from .provenance import Source
from .units import positive

ACCELERATORS = "accelerators"
CLUSTERS = "clusters"
GIVEN = "given"
"""Source of a price that the question names."""
MAX_COUNT_DIGITS = 9  # a longer count in a fleet is a mistake, and is read as part of the name

Family = Literal[
    "pascal", "volta", "turing", "ampere", "ampere-consumer", "ada", "hopper", "blackwell",
    "blackwell-consumer", "rubin", "cdna2", "cdna3", "cdna4", "tpu", "gaudi", "trainium",
    "apple", "cpu-x86", "cpu-arm", "systolic",
]  # fmt: skip
"""Architecture families: devices of one family share fitted efficiency parameters."""


@frozen(kw_only=True)
class Memory:
    """Device memory.

    Attributes
    ----------
    capacity_bytes : float
        What the device reports to software (marketing "80 GB" of HBM is about 80 GiB).
    bandwidth_bytes_per_s : float
        Peak, from the datasheet.
    cache_bytes : float
        Last-level cache shared by all compute units (0 if none).
    """

    capacity_bytes: float
    bandwidth_bytes_per_s: float
    cache_bytes: float = 0.0
    source: str
    note: str = ""

    def __attrs_post_init__(self) -> None:
        positive(self.capacity_bytes, "memory capacity")
        positive(self.bandwidth_bytes_per_s, "memory bandwidth")


@frozen(kw_only=True)
class Streaming:
    """Measured share of peak bandwidth that kernels reading weights reach."""

    share: float
    source: str
    note: str = ""


@frozen(kw_only=True)
class Compute:
    """Compute units: SMs (NVIDIA), CUs (AMD), cores (CPU, TPU).

    Attributes
    ----------
    units : int
    unit_name : str
    clock_hz : float
        Boost clock at which the datasheet rates hold.
    load_clock_hz : float
        Clock it holds under load where that is above `clock_hz` (consumer boards); 0 if not.
    local_bytes : float
        Software-managed on-chip memory per unit (shared memory, LDS, VMEM).
    array : tuple of int
        Rows and columns of one systolic array, where the device has one.
    """

    units: int
    unit_name: str = "SM"
    clock_hz: float
    load_clock_hz: float = 0.0
    local_bytes: float = 0.0
    array: tuple[int, ...] = ()
    source: str
    note: str = ""


@frozen(kw_only=True)
class Links:
    """Ways off the device, per direction.

    Attributes
    ----------
    scale_up_bytes_per_s : float
        Total to peers in the same node or pod (NVLink, Infinity Fabric, ICI); 0 if none.
    scale_up_name : str
    scale_up_domain : int
        Devices reachable at that speed in the usual node.
    host_bytes_per_s : float
        To the host (PCIe, NVLink-C2C).
    """

    scale_up_bytes_per_s: float = 0.0
    scale_up_name: str = ""
    scale_up_domain: int = 1
    host_bytes_per_s: float
    host_name: str = "PCIe"
    source: str
    note: str = ""


@frozen(kw_only=True)
class Power:
    """Electrical power of the board."""

    board_watts: float
    idle_watts: float
    source: str
    note: str = ""


@frozen(kw_only=True)
class Overhead:
    """Fixed times.

    Attributes
    ----------
    launch_s : float
        Device-side gap of one kernel inside a captured graph.
    """

    launch_s: float
    source: str
    note: str = ""


@frozen(kw_only=True)
class Price:
    """A public on-demand price of one device, or the one a user gives."""

    on_demand_usd_per_hour: float
    source: str
    note: str = ""

    @property
    def named(self) -> str:
        """Whose price it is, for people."""
        given = self.source == GIVEN
        return f"{self.on_demand_usd_per_hour:g} USD per device-hour" if given else (
            "the catalog's on-demand price")  # fmt: skip


@frozen(kw_only=True)
class Rates:
    """Dense matrix rates by format name; never the sparse figure.

    Attributes
    ----------
    dense_flop_per_s : dict of str to float
        Keys: fp64, fp32, tf32, bf16, fp16, fp8, fp6, fp4, int8, int4. Integer rates count one
        multiply-add as two operations.
    vector_flop_per_s : float
        fp32 rate of the vector (non-matrix) units.
    """

    dense_flop_per_s: dict[str, float]
    vector_flop_per_s: float
    source: str
    note: str = ""

    def __attrs_post_init__(self) -> None:
        for name, value in self.dense_flop_per_s.items():
            positive(value, f"dense rate of {name}")


@frozen(kw_only=True)
class Accelerator:
    """One device: a GPU, TPU chip, NPU or CPU socket."""

    id: str
    name: str
    vendor: str
    family: Family
    kind: Literal["gpu", "tpu", "npu", "cpu", "apple", "systolic"]
    released: str = ""
    aliases: tuple[str, ...] = ()
    memory: Memory
    compute: Compute
    rates: Rates
    links: Links
    power: Power
    overhead: Overhead
    price: Price | None = None
    streaming: Streaming | None = None
    sources: dict[str, Source] = field(factory=dict)

    def matrix_rate(self, fmt: NumberFormat) -> tuple[float, str]:
        """Dense rate and the rate-table name under which GEMMs of `fmt` operands run.

        A format the device has no units for runs at the next wider rate in `fmt.rates_as`.

        Raises
        ------
        InvalidInput
            If the device has none of them.
        """
        for name in fmt.rates_as:
            if name in self.rates.dense_flop_per_s:
                return self.rates.dense_flop_per_s[name], name
        raise InvalidInput(
            f"{self.name} has no matrix rate usable for {fmt.name}: it needs one of "
            f"{', '.join(fmt.rates_as)} and the device lists "
            f"{', '.join(self.rates.dense_flop_per_s)}."
        )


@frozen(kw_only=True)
class Tier:
    """One level of a cluster's network.

    Attributes
    ----------
    name : str
    devices : int
        Devices joined by this tier (cumulative: node 8, pod 256, ...).
    link_bytes_per_s : float
        Per device and direction.
    latency_s : float
        One hop, one way.
    in_switch_reduction : bool
        Whether the switch itself reduces (NVLS, SHARP).
    topology : {"switch", "ring", "mesh", "torus", "fat-tree", "dragonfly"}
    """

    name: str
    devices: int
    link_bytes_per_s: float
    latency_s: float
    in_switch_reduction: bool = False
    topology: Literal["switch", "ring", "mesh", "torus", "fat-tree", "dragonfly"] = "switch"
    source: str
    note: str = ""


@frozen(kw_only=True)
class Host:
    """The host of one node: CPU memory and storage for offload.

    Attributes
    ----------
    memory_bytes, memory_bandwidth_bytes_per_s : float
    link_bytes_per_s : float
        What all devices of the node together reach to host memory, per direction, where that is
        less than the sum of their links; 0 if not known to be.
    nvme_bytes, nvme_read_bytes_per_s, nvme_write_bytes_per_s : float
        Local drives together; 0 if none are named.
    """

    memory_bytes: float
    memory_bandwidth_bytes_per_s: float
    link_bytes_per_s: float = 0.0
    nvme_bytes: float = 0.0
    nvme_read_bytes_per_s: float = 0.0
    nvme_write_bytes_per_s: float = 0.0
    cpu: str = ""
    source: str
    note: str = ""


@frozen(kw_only=True)
class Cluster:
    """Devices of one kind joined by network tiers, innermost first."""

    id: str
    name: str
    accelerator: str
    devices_per_node: int
    tiers: tuple[Tier, ...]
    host: Host | None = None
    max_devices: int | None = None
    aliases: tuple[str, ...] = ()
    sources: dict[str, Source] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        sizes = [t.devices for t in self.tiers]
        if sizes != sorted(set(sizes)):
            raise InvalidInput(f"the tiers of {self.name} must grow outwards, not {sizes}")


def load_accelerator(name: str) -> Accelerator:
    """The catalog's accelerator called `name` (id or alias)."""
    return catalog.load(ACCELERATORS, name, Accelerator, "accelerator")


def load_cluster(name: str) -> Cluster:
    """The catalog's cluster called `name` (id or alias)."""
    return catalog.load(CLUSTERS, name, Cluster, "cluster")


def load_fleet(text: str) -> tuple[Accelerator, int, Cluster | None]:
    """`"h100-sxm"`, `"8xh100-sxm"` or `"512xdgx-h100"`: device, count and cluster, if named.

    A cluster's count is in devices; without a count it is one node. `"8xmi300x@3.20"` gives a price
    of one's own, in USD per device-hour, in place of the catalog's.

    Raises
    ------
    UnknownName
        If neither a device nor a cluster has that name.
    InvalidInput
        If the count is zero or above what the cluster has, or the price is not a positive number.
    """
    what, at, price = text.partition("@")
    device, count, cluster = _named_fleet(what.strip())
    if at:
        device = evolve(device, price=Price(on_demand_usd_per_hour=_usd(price, text), source=GIVEN))
    return device, count, cluster


def _usd(price: str, text: str) -> float:
    try:
        usd = float(price.strip().lstrip("$"))
    except ValueError:
        usd = math.nan
    if not (math.isfinite(usd) and usd > 0):
        raise InvalidInput(
            f"'{text}' does not price a device: after @ comes USD per device-hour, as in "
            "8xmi300x@3.20."
        )
    return usd


def _named_fleet(text: str) -> tuple[Accelerator, int, Cluster | None]:
    head, _, tail = text.partition("x")
    count = 0
    name = text
    if tail and head.strip().isdecimal() and len(head) <= MAX_COUNT_DIGITS:
        count, name = int(head), tail.strip()
        if count < 1:
            raise InvalidInput(f"'{text}' asks for {count} devices; at least one is needed.")
    try:
        return load_accelerator(name), count or 1, None
    except UnknownName:
        try:
            cluster = load_cluster(name)
        except UnknownName:
            known = [*catalog.paths("accelerators"), *catalog.paths("clusters")]
            raise UnknownName(
                "accelerator or cluster",
                name,
                known,
                "See `isoflop catalog list accelerators` and `isoflop catalog list clusters`.",
            ) from None
    if cluster.max_devices is not None and count > cluster.max_devices:
        raise InvalidInput(
            f"'{text}' asks for {count} devices; {cluster.name} has {cluster.max_devices}. "
            f"Ask for fewer, or describe a larger cluster in a catalog file of your own."
        )
    device = load_accelerator(cluster.accelerator)
    return device, count or cluster.devices_per_node, cluster
