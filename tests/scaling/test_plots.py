"""Charts of fits and decisions: every panel, labelled, for each form that can be drawn."""

import pytest

from isoflop.cli import main
from isoflop.plots.scales import power, short
from tests.test_cli import fails

pytest.importorskip("altair", reason="charts need altair")


def test_fit_chart_has_every_panel(tmp_path, capsys):
    path = tmp_path / "fit.svg"
    main(["fit", "demo", "--bootstrap", "100", "--plot", str(path)])
    assert "Chart written" in capsys.readouterr().out
    text = path.read_text()
    for words in ("IsoFLOP curves", "Envelope", "Equal loss", "efficient frontier", "Residuals",
                  "Bootstrap of the exponents", "Bootstrap of the optimum", "nats per token",
                  "2e21", "300M"):  # fmt: skip
        assert words in text


@pytest.mark.parametrize("law", ["kaplan-joint", "farseer", "outer-power"])
def test_other_forms_of_size_and_tokens_are_drawn(tmp_path, capsys, law):
    path = tmp_path / "fit.svg"
    main(["fit", "demo", "--law", law, "--bootstrap", "0", "--plot", str(path)])
    capsys.readouterr()
    assert "efficient frontier" in path.read_text()


def test_spend_chart_marks_the_optimum_and_the_end_of_the_runs(tmp_path, capsys):
    path = tmp_path / "spend.svg"
    main(["spend", "1e24", "--plot", str(path)])
    assert "Chart written" in capsys.readouterr().out
    text = path.read_text()
    for words in ("95.9B parameters, 1.74T tokens", "Optimal size by budget", "largest size"):
        assert words in text
    says = fails(capsys, "spend", "1e22", "--law", "muennighoff-2023", "--plot", str(path))
    assert "unique_tokens" in says


def test_numbers_are_short():
    assert [short(v) for v in (7.2e10, 1.5e12, 3e6, 2e3, 5)] == ["72B", "1.5T", "3M", "2k", "5"]
    assert power(6.2e18) == "6e18"
