"""Convolutions partitioned in space: the rows that devices take from their neighbours, and the sum.

A dimension a window slides over is cut into blocks, one a device, of the input and of the output.
A block of outputs needs inputs beyond its own block, its halo, which neighbours send before the
local convolution; blocks are padded to one size where they do not divide, as all devices run one
program. A stride or padding shifts the two blocks against each other, so halos differ from device
to device: all exchange as much as the largest needs and drop the rest.

References
----------
Xu et al. 2021, GSPMD, arXiv 2105.04663, section 4.3 (halo exchange with constant and non-constant
sizes, windows, padding).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from attrs import frozen

from ..cost.features import Array
from ..errors import InvalidInput
from .sharding import Mesh, Sharding, shard


@frozen(kw_only=True)
class Window:
    """A window along one dimension.

    Attributes
    ----------
    size, stride, dilation : int
        Inputs of one output, the step between outputs, the step between inputs; at least 1.
    before, after : int
        Zeros added at the ends.
    """

    size: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0

    def __attrs_post_init__(self) -> None:
        if min(self.size, self.stride, self.dilation) < 1 or min(self.before, self.after) < 0:
            raise InvalidInput(
                f"The window has size {self.size}, stride {self.stride}, dilation {self.dilation} "
                f"and padding {self.before}, {self.after}; the first three are at least 1, padding "
                "at least 0."
            )

    @property
    def reach(self) -> int:
        """Inputs from the first to the last of one output."""
        return (self.size - 1) * self.dilation + 1

    def outputs(self, inputs: int) -> int:
        """Outputs of so many inputs.

        Raises
        ------
        InvalidInput
            If the window does not fit into them.
        """
        room = inputs + self.before + self.after - self.reach
        if room < 0:
            raise InvalidInput(
                f"A window that reaches over {self.reach} does not fit into {inputs} inputs with "
                f"padding of {self.before} and {self.after}. Pad more or take a smaller window."
            )
        return room // self.stride + 1


@frozen(kw_only=True)
class Cut:
    """One dimension of a windowed operator cut over devices.

    Attributes
    ----------
    inputs, parts : int
        Size of the whole dimension, and devices it is cut over.
    """

    window: Window
    inputs: int
    parts: int

    @property
    def outputs(self) -> int:
        """Outputs of the whole dimension."""
        return self.window.outputs(self.inputs)

    @property
    def block(self) -> int:
        """Inputs a device holds; the last ones fewer."""
        return -(-self.inputs // self.parts)

    @property
    def result(self) -> int:
        """Outputs a device makes; the last ones fewer."""
        return -(-self.outputs // self.parts)

    def held(self, part: int) -> range:
        """Inputs that a device holds."""
        return range(min(part * self.block, self.inputs), min((part + 1) * self.block, self.inputs))

    def made(self, part: int) -> range:
        """Outputs that a device makes."""
        n = self.outputs
        return range(min(part * self.result, n), min((part + 1) * self.result, n))

    def needed(self, part: int) -> tuple[int, int]:
        """Inputs [first, last) that outputs of a device read; padding is below 0 or beyond."""
        w = self.window
        first = part * self.result * w.stride - w.before
        count = len(self.made(part))
        return first, first + (count - 1) * w.stride + w.reach if count else first

    def halo(self) -> tuple[int, int]:
        """Rows that every device takes from its neighbours before and after it.

        The most that one needs of the inputs there are.
        """
        before = after = 0
        for part in range(self.parts):
            first, last = self.needed(part)
            own = self.held(part)
            if last > first:
                before = max(before, own.start - max(first, 0))
                after = max(after, min(last, self.inputs) - own.stop)
        return max(before, 0), max(after, 0)

    def hops(self) -> int:
        """Neighbours, both ways together, that a device takes rows from."""
        return sum(-(-rows // self.block) for rows in self.halo())


@frozen(kw_only=True)
class Convolution:
    """A convolution of an input `b`, spatial letters, `i` with a kernel spatial, `i`, `o`.

    Attributes
    ----------
    windows : dict of str to Window
        By the letter of the spatial dimension, in order; the output is `b`, spatial letters, `o`.
    """

    windows: dict[str, Window]

    @property
    def letters(self) -> tuple[str, str, str]:
        """Dimensions of input, kernel and output."""
        space = "".join(self.windows)
        return f"b{space}i", f"{space}io", f"b{space}o"

    def run(self, x: Array, kernel: Array) -> Array:
        """The convolution on one device."""
        pads = [(0, 0), *((w.before, w.after) for w in self.windows.values()), (0, 0)]
        return self.valid(np.pad(x, pads), kernel)

    def valid(self, x: Array, kernel: Array) -> Array:
        """Outputs of an input that is padded already."""
        for axis, w in enumerate(self.windows.values(), start=1):
            # Each spatial dimension grows a dimension of the window's own at the end.
            seen = np.lib.stride_tricks.sliding_window_view(x, w.reach, axis=axis)
            step = [slice(None)] * seen.ndim
            step[axis], step[-1] = slice(None, None, w.stride), slice(None, None, w.dilation)
            x = seen[tuple(step)]
        taps = "".join(k.upper() for k in self.windows)
        space = "".join(self.windows)
        return np.einsum(f"b{space}i{taps},{taps}io->b{space}o", x, kernel)


@frozen(kw_only=True)
class Exchange:
    """What one device of a spatially cut dimension sends, and what the program makes all send.

    Attributes
    ----------
    axis : str
        Mesh axis.
    needed : float
        Values that the device which needs most takes from others.
    exchanged : float
        Values that every device sends, as all run one program.
    hops : int
        Neighbours it sends to.
    """

    axis: str
    needed: float
    exchanged: float
    hops: int


def cuts(
    mesh: Mesh, conv: Convolution, sharding: Sharding, sizes: Mapping[str, int]
) -> dict[str, Cut]:
    """How each spatial dimension is cut under a sharding of the input's and output's dimensions.

    Raises
    ------
    InvalidInput
        If the sharding names an unknown dimension or axis, or an axis twice.
    """
    known = set("".join(conv.letters))
    for letter, axis in sharding.items():
        if letter not in known or axis not in mesh.axes:
            raise InvalidInput(
                f"'{letter}' over '{axis}' is no sharding of this convolution: dimensions are "
                f"{', '.join(sorted(known))} and axes {', '.join(mesh.axes)}."
            )
    if len(set(sharding.values())) < len(sharding):
        raise InvalidInput("The sharding of the convolution uses a mesh axis twice.")
    return {
        d: Cut(window=w, inputs=sizes[d], parts=mesh.axes[sharding[d]] if d in sharding else 1)
        for d, w in conv.windows.items()
    }


def exchanges(
    mesh: Mesh, conv: Convolution, sharding: Sharding, sizes: Mapping[str, int]
) -> list[Exchange]:
    """Values exchanged for each cut spatial dimension, one dimension after the other.

    The second dimension's halo includes what the first one brought, so that corners arrive without
    messages between diagonal neighbours.
    """
    cut = cuts(mesh, conv, sharding, sizes)
    local = {d: -(-n // mesh.axes[sharding[d]]) if d in sharding else n for d, n in sizes.items()}
    found = []
    for d, c in cut.items():
        if c.parts == 1:
            continue
        across = float(np.prod([local[e] for e in conv.letters[0] if e != d]))
        rows = [_taken(c, part) for part in range(c.parts)]
        found.append(Exchange(axis=sharding[d], needed=across * max(rows),
                              exchanged=across * sum(c.halo()), hops=c.hops()))  # fmt: skip
        local[d] = local[d] + sum(c.halo())
    return found


def _taken(cut: Cut, part: int) -> int:
    """Rows of one device's inputs that others hold."""
    first, last = (min(max(n, 0), cut.inputs) for n in cut.needed(part))
    own = cut.held(part)
    kept = max(0, min(last, own.stop) - max(first, own.start))
    return max(last - first, 0) - kept


def execute_convolution(
    mesh: Mesh, conv: Convolution, sharding: Sharding, x: Array, kernel: Array
) -> tuple[Array, float]:
    """Run it on a virtual mesh; the result put together, and the most values a device received.

    Every device holds its block of the input alone and the kernel's share, takes the halo from the
    blocks of the devices that hold it, and convolves what it has; partial sums over input channels
    are added.
    """
    sizes = dict(zip(conv.letters[0], x.shape)) | {"o": kernel.shape[-1]}
    cut = cuts(mesh, conv, sharding, sizes)
    space = list(conv.windows)
    result = np.zeros([sizes["b"], *(cut[d].outputs for d in space), sizes["o"]])
    most = 0.0
    axes = [a for a in mesh.axes if a in sharding.values()]
    places = [dict(zip(axes, p)) for p in itertools.product(*(range(mesh.axes[a]) for a in axes))]
    for at in places:
        part = {d: at[sharding[d]] if d in sharding else 0 for d in space}
        own = {d: shard(d, sizes[d], sharding, at, mesh) for d in ("b", "i", "o")}
        counts = [cut[d].made(part[d]) for d in space]
        if min(len(c) for c in counts) == 0:
            continue
        whole, received = _assemble(mesh, sharding, cut, x, at, part, own)
        most = max(most, received)
        local = conv.valid(whole, kernel[(..., own["i"], own["o"])])
        target = (own["b"], *(slice(c.start, c.stop) for c in counts), own["o"])
        result[target] += local
    return result, most


def _assemble(
    mesh: Mesh, sharding: Sharding, cut: Mapping[str, Cut], x: Array, at: Mapping[str, int],
    part: Mapping[str, int], own: Mapping[str, slice],
) -> tuple[Array, float]:  # fmt: skip
    """A device's input with halo and padding, from the blocks of all that hold some of it."""
    spans = {d: c.needed(part[d]) for d, c in cut.items()}
    shape = [x[own["b"]].shape[0], *(b - a for a, b in spans.values()), x[..., own["i"]].shape[-1]]
    whole, received = np.zeros(shape), 0.0
    for blocks in itertools.product(*(range(c.parts) for c in cut.values())):
        source: list[slice] = [own["b"]]
        target: list[slice] = [slice(None)]
        for (d, c), block in zip(cut.items(), blocks, strict=True):
            first, last = spans[d]
            held = c.held(block)
            low = max(first, held.start)
            high = max(low, min(last, held.stop))
            source.append(slice(low, high))
            target.append(slice(low - first, high - first))
        piece = x[(*source, own["i"])]
        whole[(*target, slice(None))] = piece
        if any(block != part[d] for d, block in zip(cut, blocks, strict=True)):
            received += piece.size
    return whole, received
