"""Schedules of shapes: never worse than one shape, exact where a closed form is, the claim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.errors import InvalidInput
from isoflop.scaling.decide import Believed, load_law
from isoflop.scaling.law import find_law
from isoflop.scaling.shapes import schedule_shapes

LAW = find_law("vision-shape")


def shape(name: str, a: float, b: float, c: float, d: float = 1e-6) -> Believed:
    return Believed(name=name, law=LAW, theta=np.array([a, b, c, d]), draws=np.zeros((0, 4)),
                    valid={"compute_flop": (1e15, 1e20)})  # fmt: skip


def test_two_power_laws_switch_where_their_inverses_are_equally_steep():
    """E = a C^-b: |dC/dE| = C / (b E); the switch and the FLOP before and after it by hand."""
    coarse, fine = shape("coarse", 1e3, 0.2, 0.0), shape("fine", 4e6, 0.4, 0.0)
    found = schedule_shapes([coarse, fine], 1e18)
    assert [s.shape for s in found.segments] == ["coarse", "fine"]

    def flop(a, b, e):
        return (a / e) ** (1 / b)

    grid = np.geomspace(found.error, 1.0, 400_000)
    steep = [flop(a, b, grid) / (b * grid) for a, b in ((1e3, 0.2), (4e6, 0.4))]
    switch = grid[np.argmin(np.abs(np.log(steep[0] / steep[1])))]
    assert found.segments[0].error_to == pytest.approx(switch, rel=0.01)
    total = flop(1e3, 0.2, switch) + flop(4e6, 0.4, found.error) - flop(4e6, 0.4, switch)
    assert total == pytest.approx(1e18, rel=0.01)
    assert sum(s.flop for s in found.segments) + 1e15 == pytest.approx(1e18, rel=0.01)
    assert found.single == "coarse"
    assert found.error < found.single_error
    assert 0.05 < found.saving < 0.6


def test_a_shape_that_is_always_best_is_kept():
    found = schedule_shapes([shape("good", 1e3, 0.3, 0.0), shape("bad", 3e3, 0.3, 0.1)], 1e18)
    assert [s.shape for s in found.segments] == ["good"]
    assert found.saving == pytest.approx(0.0, abs=2e-3)
    assert found.error == pytest.approx(found.single_error, rel=2e-3)


@given(st.lists(st.tuples(st.floats(0.1, 0.6), st.floats(0.0, 0.2), st.floats(0.2, 0.9)),
                min_size=2, max_size=4))  # fmt: skip
def test_never_worse_than_the_best_single_shape(laws):
    fits = [shape(f"s{i}", at * 1e16**b, b, floor) for i, (b, floor, at) in enumerate(laws)]
    found = schedule_shapes(fits, 1e19)
    assert found.error <= found.single_error * (1 + 2e-3)
    assert 0 <= found.saving < 1
    errors = [s.error_from for s in found.segments]
    assert errors == sorted(errors, reverse=True)
    assert sum(s.flop for s in found.segments) <= 1e19


def test_laws_of_more_than_compute_and_single_fits_are_refused():
    with pytest.raises(InvalidInput, match="at least two"):
        schedule_shapes([shape("one", 1e3, 0.3, 0.0)], 1e18)
    with pytest.raises(InvalidInput, match="params, tokens"):
        schedule_shapes([shape("one", 1e3, 0.3, 0.0), load_law("besiroglu-2024")], 1e18)
    with pytest.raises(InvalidInput, match="below the smallest run"):
        schedule_shapes([shape("a", 1e3, 0.3, 0.0), shape("b", 1e3, 0.2, 0.0)], 1e14)
