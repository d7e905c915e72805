import itertools
import math

import pytest

from isoflop.cli import main
from isoflop.plots.numerics import LETTER, PLOT, label_shifts, pareto_chart

pytest.importorskip("altair", reason="charts need altair")


def test_layers_chart_names_every_layer_and_both_errors(tmp_path, capsys):
    path = tmp_path / "q.svg"
    main(["quantize", "demo", "--plot", str(path)])
    assert "Chart written" in capsys.readouterr().out
    text = path.read_text()
    for words in ("layers.0.self_attn.q_proj", "relative RMSE", "output", "Outliers"):
        assert words in text


def test_pareto_charts_label_the_formats(tmp_path, capsys):
    one, two = tmp_path / "a.svg", tmp_path / "b.svg"
    main(["quantize", "demo", "--compare", "nvfp4,mxfp4,mxfp8-e4m3", "--plot", str(one)])
    main(["formats", "compare", "nf4", "mxfp4", "bf16", "--plot", str(two)])
    assert "mxfp8-e4m3" in one.read_text()
    assert "nf4" in two.read_text()
    assert "bits per value" in two.read_text()


def test_names_of_formats_do_not_overlap():
    points = [
        {"format": name, "bits": bits, "error": error}
        for name, bits, error in (
            ("nvfp4", 4.5, 0.095), ("nf4", 4.5, 0.093), ("mxfp4", 4.25, 0.115),
            ("int4-g128", 4.125, 0.118), ("bf16", 16.0, 0.0017),
        )
    ]  # fmt: skip
    shifts = label_shifts(points)
    assert shifts[0] == shifts[4] == 0
    span = math.log10(0.118 / 0.0017)
    lines = [s - math.log10(p["error"]) / span * PLOT[1] for p, s in zip(points, shifts)]
    near = sorted(lines[:4])
    assert min(b - a for a, b in itertools.pairwise(near)) >= LETTER[1] - 1e-9


def test_an_exact_format_does_not_stretch_the_axis():
    rows = [
        {"format": "nvfp4", "bits_per_weight": 4.5, "relative_output_rmse": 0.1,
         "undominated": True},
        {"format": "bf16", "bits_per_weight": 16, "relative_output_rmse": 0.0,
         "undominated": True},
    ]  # fmt: skip
    drawn = pareto_chart(rows, "t").to_json()
    assert "bf16 (exact)" in drawn
    assert "1e-12" not in drawn


def test_wrong_suffix_is_explained(capsys):
    with pytest.raises(SystemExit):
        main(["formats", "compare", "nf4", "mxfp4", "--plot", "x.gif"])
    assert ".svg" in capsys.readouterr().err
