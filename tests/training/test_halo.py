"""Convolutions cut in space: equal to the whole, and to what devices must take from others."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from isoflop.errors import InvalidInput
from isoflop.training.halo import (
    Convolution,
    Cut,
    Window,
    cuts,
    exchanges,
    execute_convolution,
)
from isoflop.training.sharding import Mesh
from tests.training.test_methods import run

windows = st.builds(
    Window, size=st.integers(1, 4), stride=st.integers(1, 3), dilation=st.integers(1, 3),
    before=st.integers(0, 4), after=st.integers(0, 4),
)  # fmt: skip


def direct(x, kernel, conv):
    """The definition, output by output."""
    (h, a), (w, b) = conv.windows.items()
    del h, w
    out = np.zeros((x.shape[0], a.outputs(x.shape[1]), b.outputs(x.shape[2]), kernel.shape[-1]))
    for p, q in np.ndindex(out.shape[1:3]):
        for i, j in np.ndindex(kernel.shape[:2]):
            row = p * a.stride + i * a.dilation - a.before
            column = q * b.stride + j * b.dilation - b.before
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                out[:, p, q] += x[:, row, column] @ kernel[i, j]
    return out


@settings(max_examples=80, deadline=None)
@given(a=windows, b=windows, height=st.integers(1, 13), width=st.integers(1, 9),
       rows=st.integers(1, 5), columns=st.integers(1, 3), data=st.data())  # fmt: skip
def test_a_convolution_cut_in_space_equals_the_whole(a, b, height, width, rows, columns, data):
    assume(a.reach <= height + a.before + a.after and b.reach <= width + b.before + b.after)
    conv = Convolution(windows={"h": a, "w": b})
    mesh = Mesh(axes={"rows": rows, "columns": columns, "more": 2})
    sharding = {"h": "rows", "w": "columns"}
    other = data.draw(st.sampled_from(["b", "i", "o", ""]))
    if other:
        sharding[other] = "more"
    rng = np.random.default_rng(0)
    x, kernel = rng.random((2, height, width, 4)), rng.random((a.size, b.size, 4, 2))
    expected = direct(x, kernel, conv)
    np.testing.assert_allclose(conv.run(x, kernel), expected)
    found, received = execute_convolution(mesh, conv, sharding, x, kernel)
    np.testing.assert_allclose(found, expected)
    # No device takes more than the program has all devices exchange.
    sizes = {"b": 2, "h": height, "w": width, "i": 4, "o": 2}
    assert received <= sum(e.exchanged for e in exchanges(mesh, conv, sharding, sizes)) + 1e-9


@settings(max_examples=80, deadline=None)
@given(window=windows, inputs=st.integers(1, 40), parts=st.integers(1, 6))
def test_the_halo_is_what_outputs_read_beyond_their_block(window, inputs, parts):
    assume(window.reach <= inputs + window.before + window.after)
    conv, mesh = Convolution(windows={"h": window}), Mesh(axes={"a": parts})
    x, kernel = np.ones((1, inputs, 1)), np.ones((window.size, 1, 1))
    received = execute_convolution(mesh, conv, {"h": "a"}, x, kernel)[1]
    sizes = {"b": 1, "h": inputs, "i": 1, "o": 1}
    found = exchanges(mesh, conv, {"h": "a"}, sizes)
    # One dimension: what the virtual device received is what the most needy one needs.
    assert (found[0].needed if found else 0.0) == received
    assert not found or found[0].exchanged >= found[0].needed


def test_a_same_padded_window_takes_half_its_reach_from_either_side():
    cut = Cut(window=Window(size=3, before=1, after=1), inputs=64, parts=8)
    assert (cut.halo(), cut.hops()) == ((1, 1), 2)
    wide = Cut(window=Window(size=5, dilation=8, before=16, after=16), inputs=64, parts=8)
    # Sixteen rows are two neighbours' blocks on either side.
    assert (wide.halo(), wide.hops()) == ((16, 16), 4)
    # Non-overlapping patches need none.
    assert Cut(window=Window(size=4, stride=4), inputs=64, parts=8).halo() == (0, 0)


def test_valid_windows_shift_blocks_against_each_other():
    # 62 outputs of 64 inputs: the last devices make outputs left of their own inputs.
    cut = Cut(window=Window(size=3), inputs=64, parts=4)
    assert [cut.needed(p) for p in range(4)] == [(0, 18), (16, 34), (32, 50), (48, 64)]
    assert cut.halo() == (0, 2)


def test_wrong_windows_and_shardings_are_sentences():
    with pytest.raises(InvalidInput, match="at least 1"):
        Window(size=3, stride=0)
    conv, mesh = Convolution(windows={"h": Window(size=5)}), Mesh(axes={"a": 2, "b": 2})
    sizes = {"b": 1, "h": 4, "i": 1, "o": 1}
    with pytest.raises(InvalidInput, match="does not fit"):
        exchanges(mesh, conv, {"h": "a"}, sizes)
    with pytest.raises(InvalidInput, match="no sharding"):
        cuts(mesh, conv, {"z": "a"}, sizes)
    with pytest.raises(InvalidInput, match="twice"):
        cuts(mesh, conv, {"h": "a", "b": "a"}, sizes)
    with pytest.raises(InvalidInput, match="do not divide"):
        execute_convolution(mesh, conv, {"b": "a"}, np.ones((3, 8, 1)), np.ones((5, 1, 1)))


def test_halos_by_hand_and_by_device():
    rows = run("gspmd-convolution", on="64xdgx-a100", side=512.0, channels=128.0).rows()
    by = {r["cut"]: r for r in rows}
    assert by["1 x 1"]["halo_bytes"] == 0.0
    # Two rows of 512 x 128 values in 16 bits, for any number of devices.
    assert by["8 x 1"]["halo_bytes"] == by["64 x 1"]["halo_bytes"] == 2 * 2 * 512 * 128
    # Two dimensions: rows of 64 columns, then columns of 64 rows and the two that came.
    assert by["8 x 8"]["halo_bytes"] == 2 * 128 * (2 * 64 + 2 * 66)
    assert by["8 x 8"]["halo_s"] < by["64 x 1"]["halo_s"]
    assert rows[0]["speed_up"] == 1.0
    assert by["8 x 1"]["speed_up"] > 3.0
    with pytest.raises(InvalidInput, match="wider than"):
        run("gspmd-convolution", side=8.0, window=9.0)
