"""Sharding annotations propagated through a graph of einsums, what they move, and their execution.

References
----------
Xu et al. 2021, GSPMD: General and Scalable Parallelization for ML Computation Graphs, arXiv
2105.04663: merging of compatible shardings (section 3.5), einsum partitioning (4.1), resharding
by all-gather, all-to-all and slicing (4.5).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from attrs import evolve, field, frozen

from ..cost.features import Array
from ..errors import InvalidInput

Moves = Literal["all_gather", "all_to_all", "all_reduce", "reduce_scatter", "slice"]
Sharding = dict[str, str]
"""Mesh axis by dimension letter; a dimension that is missing is whole on every device."""


@frozen(kw_only=True)
class Mesh:
    """Devices along named axes."""

    axes: dict[str, int]

    @property
    def devices(self) -> int:
        """How many there are."""
        return int(np.prod(list(self.axes.values())))


@frozen(kw_only=True)
class Einsum:
    """One product: `"bd,df->bf"` of named inputs, or an elementwise map where there is one."""

    name: str
    inputs: tuple[str, ...]
    equation: str

    @property
    def operands(self) -> tuple[str, ...]:
        """Dimension letters of each input."""
        return tuple(self.equation.split("->")[0].split(","))

    @property
    def result(self) -> str:
        """Dimension letters of the output, which is named like the product."""
        return self.equation.split("->")[1]


@frozen(kw_only=True)
class Move:
    """A collective that the propagated shardings need.

    Attributes
    ----------
    tensor : str
        What is moved, and `before`, the product that needs it.
    axis : str
        Mesh axis it runs over.
    share : float
        Share of the whole tensor that one device holds or, for gathers, receives into.
    """

    tensor: str
    before: str
    kind: Moves
    axis: str
    share: float


@frozen(kw_only=True)
class Plan:
    """Shardings of every tensor and the moves between them, in order."""

    shardings: dict[str, Sharding]
    moves: tuple[Move, ...] = field(default=())
    operand_shardings: dict[str, tuple[Sharding, ...]] = field(factory=dict)


def propagate(
    mesh: Mesh, dims: Mapping[str, str], graph: Sequence[Einsum],
    annotations: Mapping[str, Sharding],
) -> Plan:  # fmt: skip
    """Give every tensor a sharding, from a few annotations.

    Shardings flow forward and backward along shared dimensions until nothing changes; where two
    meet, the one that was there stays and only compatible axes are added (each axis shards at
    most one dimension of a tensor). Annotations are never changed.

    Raises
    ------
    InvalidInput
        If an annotation names a dimension or axis that does not exist, or uses an axis twice.
    """
    letters = {**dims, **{op.name: op.result for op in graph}}
    for tensor, sharding in annotations.items():
        _check(tensor, letters.get(tensor), sharding, mesh)
    found: dict[str, Sharding] = {t: dict(annotations.get(t, {})) for t in letters}
    changed = True
    while changed:
        changed = False
        for op in graph:
            members = [*zip(op.inputs, op.operands), (op.name, op.result)]
            for (a, da), (b, db) in itertools.permutations(members, 2):
                if b in annotations:
                    continue
                for letter, axis in found[a].items():
                    shared = letter in da and letter in db
                    if shared and letter not in found[b] and axis not in found[b].values():
                        found[b][letter] = axis
                        changed = True
    moves: list[Move] = []
    used: dict[str, tuple[Sharding, ...]] = {}
    for op in graph:
        wanted = _operation(op, found)
        used[op.name] = tuple(
            {d: wanted[d] for d in letters if d in wanted} for letters in op.operands
        )
        for tensor, want in zip(op.inputs, used[op.name]):
            moves += _reshard(tensor, op.name, found[tensor], want, mesh)
        moves += _finish(op, wanted, found[op.name], mesh)
    return Plan(shardings=found, moves=tuple(moves), operand_shardings=used)


def _check(tensor: str, letters: str | None, sharding: Sharding, mesh: Mesh) -> None:
    if letters is None:
        raise InvalidInput(f"The annotation names '{tensor}', which is no tensor of the graph.")
    for letter, axis in sharding.items():
        if letter not in letters:
            raise InvalidInput(f"'{tensor}' has dimensions {letters}; it has no '{letter}'.")
        if axis not in mesh.axes:
            raise InvalidInput(f"The mesh has axes {', '.join(mesh.axes)}; it has no '{axis}'.")
    if len(set(sharding.values())) < len(sharding):
        raise InvalidInput(f"The annotation of '{tensor}' uses a mesh axis twice.")


def _operation(op: Einsum, found: Mapping[str, Sharding]) -> Sharding:
    """Axis per dimension of the local product: the output's first, then contracted ones'."""
    wanted: Sharding = dict(found[op.name])
    for tensor, letters in zip(op.inputs, op.operands):
        for letter, axis in found[tensor].items():
            if letter in letters and letter not in wanted and axis not in wanted.values():
                if letter in op.result:
                    continue  # the output does not want it split
                wanted[letter] = axis
    return wanted


def _share(sharding: Sharding, mesh: Mesh) -> float:
    return 1.0 / float(np.prod([mesh.axes[a] for a in sharding.values()] or [1]))


def _reshard(tensor: str, before: str, have: Sharding, want: Sharding, mesh: Mesh) -> list[Move]:
    """Moves that turn one sharding into another, an axis at a time."""
    moves = []
    now = dict(have)
    for letter, axis in list(have.items()):
        if want.get(letter) == axis:
            continue
        target = next((d for d, a in want.items() if a == axis and d not in now), None)
        if target is not None:
            moves.append(Move(tensor=tensor, before=before, kind="all_to_all", axis=axis,
                              share=_share(now, mesh)))  # fmt: skip
            del now[letter]
            now[target] = axis
        else:
            del now[letter]
            moves.append(Move(tensor=tensor, before=before, kind="all_gather", axis=axis,
                              share=_share(now, mesh)))  # fmt: skip
    for letter, axis in want.items():
        if now.get(letter) != axis:
            now[letter] = axis
            moves.append(Move(tensor=tensor, before=before, kind="slice", axis=axis,
                              share=_share(now, mesh)))  # fmt: skip
    return moves


def _finish(op: Einsum, wanted: Sharding, out: Sharding, mesh: Mesh) -> list[Move]:
    """Partial sums over contracted dimensions, reduced to every device or scattered."""
    moves = []
    local = {d: a for d, a in wanted.items() if d in op.result}
    for letter, axis in wanted.items():
        if letter in op.result:
            continue
        scattered = axis in out.values()
        moves.append(Move(tensor=op.name, before=op.name, axis=axis, share=_share(local, mesh),
                          kind="reduce_scatter" if scattered else "all_reduce"))  # fmt: skip
    return moves


def execute(
    mesh: Mesh, graph: Sequence[Einsum], plan: Plan, tensors: Mapping[str, Array]
) -> dict[str, Array]:
    """Run the plan on a virtual mesh of NumPy shards and put the results together.

    Every device holds only its slice of each operand; partial sums are added over the axes of
    contracted dimensions. Equal to the unsharded einsums up to rounding.
    """
    whole = dict(tensors)
    names = list(mesh.axes)
    for op in graph:
        operand = plan.operand_shardings[op.name]
        merged = {k: v for s in operand for k, v in s.items()}
        pieces: dict[tuple[int, ...], Array] = {}
        for place in itertools.product(*(range(mesh.axes[a]) for a in names)):
            at = dict(zip(names, place))
            local = [
                _slice(whole[t], letters, s, at, mesh)
                for t, letters, s in zip(op.inputs, op.operands, operand)
            ]
            pieces[place] = np.einsum(op.equation, *local)
        sizes = {
            d: n for t, letters in zip(op.inputs, op.operands)
            for d, n in zip(letters, whole[t].shape)
        }  # fmt: skip
        result = np.zeros([sizes[d] for d in op.result])
        kept = {d: a for d, a in merged.items() if d in op.result}
        summed = [a for d, a in merged.items() if d not in op.result]
        for place, piece in pieces.items():
            at = dict(zip(names, place))
            # Replicas along unused axes hold the same; count the first.
            if any(at[a] for a in names if a not in kept.values() and a not in summed):
                continue
            result[_index(op.result, sizes, kept, at, mesh)] += piece
        whole[op.name] = result
    return whole


def _index(
    letters: str, sizes: Mapping[str, int], sharding: Sharding, at: Mapping[str, int], mesh: Mesh
) -> tuple[slice, ...]:
    return tuple(shard(d, sizes[d], sharding, at, mesh) for d in letters)


def shard(letter: str, size: int, sharding: Sharding, at: Mapping[str, int], mesh: Mesh) -> slice:
    """A device's share of one dimension of `size` elements; `at` is its place on the mesh.

    Raises
    ------
    InvalidInput
        If the devices of the dimension's axis do not divide it.
    """
    axis = sharding.get(letter)
    if axis is None:
        return slice(None)
    each, rest = divmod(size, mesh.axes[axis])
    if rest:
        raise InvalidInput(
            f"Dimension '{letter}' has {size} elements, which the {mesh.axes[axis]} devices of "
            f"axis '{axis}' do not divide."
        )
    return slice(at[axis] * each, (at[axis] + 1) * each)


def _slice(
    value: Array, letters: str, sharding: Sharding, at: Mapping[str, int], mesh: Mesh
) -> Array:
    return value[_index(letters, dict(zip(letters, value.shape)), sharding, at, mesh)]


def without(plan: Plan, kind: Moves) -> Plan:
    """The plan less its moves of one kind."""
    return evolve(plan, moves=tuple(m for m in plan.moves if m.kind != kind))
