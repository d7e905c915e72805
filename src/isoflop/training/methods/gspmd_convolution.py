"""GSPMD's convolutions: one layer cut in space over a fleet, and what its halos cost."""

from __future__ import annotations

from typing import Any, ClassVar, final

from ...cost.kernels.calibration import load_gemm
from ...cost.kernels.convolution import convolution_time_s, load_convolutions
from ...cost.kernels.shape import DeviceShape
from ...errors import InvalidInput
from ...formats import load_format
from ..halo import Convolution, Window, cuts, exchanges
from ..method import NETWORK_SHARE, MethodReport, Setting, TrainingMethod
from ..sharding import Mesh, Sharding

VALUE_BYTES = 2.0


@final
class GspmdConvolution(TrainingMethod):
    """A two-dimensional convolution of images larger than a batch can share out.

    Rows, then rows and columns, are cut over more and more devices of the fleet; every device takes
    its halo from its neighbours and convolves its block. Kernels are those fitted on Hopper at the
    device's own rates; halos travel before the convolution, each at the rate of the links it
    crosses. The model asked about says nothing here: sizes are options.

    References
    ----------
    Xu et al. 2021, GSPMD, arXiv 2105.04663 (section 4.3; spatial partitioning).
    """

    title: ClassVar[str] = "convolutions cut in space, and the cost of their halos"
    reference: ClassVar[str] = "GSPMD, arXiv 2105.04663"
    options: ClassVar[dict[str, tuple[float, str]]] = {
        "side": (512.0, "rows and columns of an image"), "channels": (128.0, "in and out"),
        "window": (3.0, "width of the square window"), "dilation": (1.0, "step between its taps"),
        "images": (1.0, "images of the layer over all devices"),
    }  # fmt: skip

    def run(self, setting: Setting, settings: dict[str, float]) -> MethodReport:
        s = {k: round(v) for k, v in settings.items()}
        reach = (s["window"] - 1) * s["dilation"] + 1
        if reach > s["side"]:
            raise InvalidInput(
                f"A window that reaches over {reach} is wider than images of {s['side']}. Set a "
                "larger side or a smaller window."
            )
        pad = {"before": (reach - 1) // 2, "after": reach // 2}
        window = Window(size=s["window"], dilation=s["dilation"], **pad)
        conv = Convolution(windows={"h": window, "w": window})
        sizes = {"b": s["images"], "h": s["side"], "w": s["side"], "i": s["channels"],
                 "o": s["channels"]}  # fmt: skip
        records = [
            self._row(setting, conv, sizes, rows, columns)
            for rows, columns in _meshes(setting.count, s["side"])
        ]
        for r in records:
            r["speed_up"] = records[0]["layer_s"] / r["layer_s"]
        best = max(records, key=lambda r: r["speed_up"])
        return MethodReport(
            title=f"{s['images']} images of {s['side']} x {s['side']} x {s['channels']}, window "
            f"{s['window']} x {s['window']}, on {setting.device.name}",
            columns=("cut", "devices", "halo_bytes", "hops", "halo_s", "convolution_s", "layer_s",
                     "speed_up"),
            records=records,
            conclusion=f"Cut {best['cut']} it is {best['speed_up']:.1f} times as fast as on one "
            f"device; halos are {best['halo_s'] / best['layer_s']:.0%} of that.",
        )  # fmt: skip

    @staticmethod
    def _row(
        setting: Setting, conv: Convolution, sizes: dict[str, int], rows: int, columns: int
    ) -> dict[str, Any]:
        mesh = Mesh(axes={"rows": rows, "columns": columns})
        sharding: Sharding = {"h": "rows", "w": "columns"}
        cut = cuts(mesh, conv, sharding, sizes)
        sent = exchanges(mesh, conv, sharding, sizes)
        net = setting.network
        # Neighbours along columns are next to each other, along rows as far apart as a row is long.
        crosses = {"columns": columns > net.node, "rows": rows * columns > net.node}
        halo = 0.0
        for e in sent:
            speed = net.outer_bytes_per_s if crosses[e.axis] else net.inner_bytes_per_s
            wait = net.outer_latency_s if crosses[e.axis] else net.inner_latency_s
            halo += VALUE_BYTES * e.exchanged / (speed * NETWORK_SHARE) + e.hops * wait
        pixels = float(sizes["b"] * cut["h"].result * cut["w"].result)
        alone = _kernel_s(setting, pixels, sizes["i"], conv.windows["h"].size)
        return {
            "cut": f"{rows} x {columns}", "devices": rows * columns,
            "halo_bytes": VALUE_BYTES * sum(e.exchanged for e in sent),
            "hops": sum(e.hops for e in sent), "halo_s": halo, "convolution_s": alone,
            "layer_s": halo + alone,
        }  # fmt: skip


def _meshes(count: int, side: int) -> list[tuple[int, int]]:
    """Rows alone and rows by columns, over 1, 2, 4, ... devices with a row each."""
    found, n = [(1, 1)], 2
    while n <= count:
        found += [(n, 1)] if n <= side else []
        across = 1 << (n.bit_length() // 2)
        found += [(n // across, across)] if 1 < across <= side and n // across > 1 else []
        n *= 2
    return found


def _kernel_s(setting: Setting, pixels: float, channels: int, window: int) -> float:
    """Seconds of a device's own convolution."""
    device, product = setting.device, load_gemm("hopper").gemm["bf16"]
    return convolution_time_s(
        load_convolutions().parameters, product, DeviceShape.of(device), "dense", pixels, channels,
        window, rate_flop_per_s=device.matrix_rate(load_format("bf16"))[0],
        vector_flop_per_s=device.rates.vector_flop_per_s,
    )  # fmt: skip


METHOD = GspmdConvolution()
