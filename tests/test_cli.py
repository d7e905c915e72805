import json
import os
import subprocess
import sys

import pytest

from isoflop import __version__
from isoflop.cli import COMMANDS, main


def fails(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("isoflop: ")
    assert "Traceback" not in err
    return err


def imported(*arguments: str) -> tuple[str, set[str]]:
    """What a run of the command line prints, and the top modules that it has imported."""
    code = (
        "import sys\nfrom isoflop.cli import main\nmain(sys.argv[1:])\n"
        "print('imported', *sorted(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown, _, modules = done.stdout.rpartition("imported")
    return shown, set(modules.split())


HEAVY = {"numpy", "scipy", "numba", "altair", "pandas", "torch", "rich.markdown", "asyncio"}


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_names_every_command_and_imports_no_parser(arguments):
    shown, modules = imported(*arguments)
    assert not modules & (HEAVY | {"cyclopts", "rich", "attrs", "inspect", "isoflop.commands"})
    for name, (_, summary) in COMMANDS.items():
        assert f"\n  {name} " in shown
        assert summary.split()[-1] in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_nothing_heavy(command):
    shown, modules = imported(command, "--help")
    assert not modules & HEAVY
    assert f"isoflop {command}" in shown
    assert {m for m in modules if m.startswith("isoflop.")} <= {
        "isoflop.cli", "isoflop.errors", "isoflop.commands", "isoflop.commands._help",
        "isoflop.commands._traffic", "isoflop.commands._training", "isoflop.commands._options",
        "isoflop.commands.limits", "isoflop.commands.recompute",
        f"isoflop.commands.{command}",
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "llama-3.1-8b", "--on", "h100-sxm"),
        ("simulate", "llama-3.1-8b", "--on", "h100-sxm", "--requests", "20", "--rate", "1"),
        ("advise", "llama-3.1-8b", "--on", "2xh100-sxm", "--traffic", "demo", "--rate", "1"),
    ],
)
def test_small_questions_import_nothing_that_compiles_or_plots(arguments):
    _, modules = imported(*arguments)
    unwanted = (HEAVY - {"numpy"}) | {"numpy.ma", "isoflop.plots.chart", "isoflop.serving._borrow"}
    assert modules & unwanted == set()


def test_help_wraps_the_paragraphs_of_docstrings(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    main(["explain", "--help"])
    out = capsys.readouterr().out
    assert "default: the largest power of two that fits, up to 64." in out


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == __version__ + "\n"


def test_explain_prints_one_screen_with_regimes_and_findings(capsys):
    main(["explain", "llama-3.1-8b", "--on", "h100-sxm"])
    out = capsys.readouterr().out
    for words in ("What bounds a step", "512", "What would help most", "gain", "Largest"):
        assert words in out


def test_explain_json_is_consistent(capsys):
    main(["explain", "llama-3.1-8b", "--on", "2xh100-sxm", "--batch", "32", "--json"])
    out = json.loads(capsys.readouterr().out)
    assert out["plan"] == "tp2"
    for row in out["regimes"]:
        assert row["ideal_s"] <= row["low_s"] * (1 + 1e-9) <= row["step_s"] * (1 + 1e-6)
        assert row["step_s"] <= row["high_s"]
        assert sum(row["shares"].values()) == pytest.approx(1.0, rel=1e-6)
    at = next(r for r in out["regimes"] if r["batch"] == 32)
    assert sum(o["seconds"] for o in out["operators"]) == pytest.approx(at["step_s"], rel=1e-6)
    gains = [f["speedup"] for f in out["findings"]]
    assert gains == sorted(gains, reverse=True)


def test_every_section_prints(capsys):
    main(["explain", "llama-3.1-8b", "--on", "h100-sxm", "--show", "all"])
    out = capsys.readouterr().out
    for title in (
        "Data movement",
        "I/O of attention",
        "Work and span",
        "formulas",
        "PE utilisation",
    ):
        assert title in out


@pytest.mark.parametrize("suffix", ["svg", "html"])
def test_explain_draws_its_chart(tmp_path, capsys, suffix):
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    path = tmp_path / f"chart.{suffix}"
    main(["explain", "llama-3.1-8b", "--on", "h100-sxm", "--plot", str(path)])
    assert path.stat().st_size > 1000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explain", "lama-3.1-8b", "--on", "h100"], "llama-3.1-8b"),
        (["explain", "llama-3.1-8b", "--on", "h1000"], "nearest"),
        (["explain", "llama-3.1-8b", "--on", "0xh100-sxm"], "at least one"),
        (["explain", "llama-3.1-8b", "--on", "h100", "--plan", "tp3"], "32 attention heads"),
        (["explain", "llama-3.1-8b", "--on", "h100", "--plan", "zz"], "not understood"),
        (["explain", "llama-3.1-8b", "--on", "h100", "--batch", "0"], "at least 1"),
        (["explain", "llama-3.1-8b", "--on", "h100", "--context", "-5"], "at least 1"),
        (["explain", "llama-3.1-8b", "--on", "h100", "--weights", "fp7"], "number format"),
        (["explain", "llama-3.1-405b", "--on", "h100"], "does not fit"),
        (["explain", "llama-3.1-8b", "--on", "h100", "--show", "nothing"], "section"),
        (["explain", "llama-3.1-8b", "--on", "h100", "--plot", "x.bmp"], ".svg"),
        (["explain", "llama-3.1-8b", "--on", "h100", "--plot", "/no/such/x.svg"], "does not exist"),
        (["explain", "llama-3.1-8b"], "on"),
        (["nonsense"], "nonsense"),
        (["catalog", "show", "model", "nope"], "no model"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_two(capsys, arguments, words):
    assert words in fails(capsys, *arguments)


def test_catalog_new_starts_a_file_that_checks(tmp_path, capsys, monkeypatch):
    main(
        [
            "catalog",
            "new",
            "accelerator",
            "my-gpu",
            "--copy-from",
            "h100-sxm",
            "--folder",
            str(tmp_path),
        ]
    )
    path = tmp_path / "accelerators" / "my-gpu.toml"
    main(["catalog", "check", str(path)])
    monkeypatch.setenv("ISOFLOP_CATALOG", str(tmp_path))
    main(["explain", "llama-3.1-8b", "--on", "my-gpu", "--json"])
    assert "my-gpu" in capsys.readouterr().out


def test_python_m_isoflop_is_the_command():
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-m", "isoflop", "--version"], capture_output=True)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "kind", ["accelerators", "clusters", "formats", "limits", "models", "runs"]
)
def test_catalog_lists_cut_no_number(capsys, kind):
    main(["catalog", "list", kind])
    assert "…" not in capsys.readouterr().out


def test_catalog_list_gives_programs_numbers(capsys):
    main(["catalog", "list", "accelerators", "--json"])
    rows = {r["id"]: r for r in json.loads(capsys.readouterr().out)}
    assert rows["h100-sxm"]["bandwidth_bytes_per_s"] == pytest.approx(3.35e12, rel=0.01)
    assert rows["h100-sxm"]["dense_flop_per_s"]["bf16"] == pytest.approx(989e12, rel=0.01)


@pytest.mark.parametrize(("flags", "words"), [
    (["--engine", "vlm"], "no engine called 'vlm'"),
    (["--show", "movment"], "movement"),
    (["--plan", "pp5"], "32 layers, which 5 pipeline stages do not divide"),
    (["--plan", "tp16"], "needs 16 devices and '8xh100-sxm' has 8"),
    (["--plot", "nowhere/x.svg"], "The folder 'nowhere' does not exist"),
    (["--plot", "x.gif"], "does not end in one of"),
])  # fmt: skip
def test_wrong_options_are_refused_before_anything_is_printed(capsys, flags, words):
    assert words in fails(capsys, "explain", "llama-3.1-8b", "--on", "8xh100-sxm", *flags)
    assert capsys.readouterr().out == ""


def test_sections_are_in_the_json_too(capsys):
    main(["explain", "llama-3.1-8b", "--on", "h100-sxm", "--show", "movement,span", "--json"])
    sections = json.loads(capsys.readouterr().out)["sections"]
    assert [s["section"] for s in sections] == ["movement", "span"]
    assert all(len(row) == len(s["columns"]) for s in sections for row in s["rows"])


def test_counts_have_suffixes(capsys):
    contexts = []
    for text in ("8192", "8Ki", "8k"):
        main(["explain", "llama-3.1-8b", "--on", "l40s", "--context", text, "--json"])
        contexts.append(json.loads(capsys.readouterr().out)["context"])
    assert contexts == [8192, 8192, 8000]
    for text in ("8q", "8.5", "nan", "1e400", "many"):
        assert "not a whole number" in fails(
            capsys, "explain", "llama-3.1-8b", "--on", "l40s", "--context", text
        )


def test_an_answer_is_the_same_in_every_run():
    arguments = [
        sys.executable,
        "-m",
        "isoflop",
        "explain",
        "deepseek-v3",
        "--on",
        "8xh200",
        "--json",
    ]
    answers = {
        subprocess.run(
            arguments, capture_output=True, check=True, env=os.environ | {"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(answers) == 1


def test_a_word_too_many_is_named_with_the_help_to_read(capsys):
    shown = fails(capsys, "explain", "llama-3.1-8b", "extra", "--on", "h100-sxm")
    assert shown == "isoflop: The command takes no 'extra' here. See `isoflop explain --help`.\n"
