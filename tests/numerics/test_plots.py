import pytest

from isoflop.cli import main

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


def test_wrong_suffix_is_explained(capsys):
    with pytest.raises(SystemExit):
        main(["formats", "compare", "nf4", "mxfp4", "--plot", "x.gif"])
    assert ".svg" in capsys.readouterr().err
