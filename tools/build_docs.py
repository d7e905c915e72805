"""Regenerate what the documentation shows: the README's screen and chart, and validation tables.

    python tools/build_docs.py [--data ../shared]

The validation tables need the measured data beside the checkout and are left as they are without
it.
"""

from __future__ import annotations

import argparse
import inspect
import subprocess
import sys
from pathlib import Path

from isoflop.scaling.choice import choice_names, find_choice
from isoflop.serving.method import find_method, method_names
from isoflop.training.method import find_training_method, training_method_names
from isoflop.tuning.searcher import find_searcher, searcher_names

ROOT = Path(__file__).resolve().parents[1]
SCREENS = {
    "explain": ["explain", "llama-3.1-8b", "--on", "h100-sxm"],
    "advise": ["advise", "llama-3.1-8b", "--on", "8xh100-sxm,8xa100-80gb-sxm", "--traffic", "demo",
               "--slo", "ttft<500ms@p99,tpot<40ms@p95"],
    "plan": ["plan", "llama-3.1-70b", "--on", "512xdgx-h100", "--tokens", "2T"],
    "fit": ["fit", "demo"],
    "spend": ["spend", "1e24"],
    "quantize": ["quantize", "demo", "--format", "nvfp4", "--method", "gptq", "--model",
                 "llama-3.1-8b", "--on", "a100-80gb-sxm"],
}  # fmt: skip
"""Commands whose real output the README shows, by the word in its marker."""
CHARTS = {"explain": "explain.svg", "advise": "advise.svg", "plan": "plan.svg", "fit": "fit.svg",
          "spend": "spend.svg"}  # fmt: skip
END = "<!-- end of screen -->"


def run(*arguments: str) -> str:
    """Output of one isoflop command."""
    done = subprocess.run(
        [sys.executable, "-m", "isoflop.cli", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def quoted(argument: str) -> str:
    """An argument as a shell wants it."""
    return f'"{argument}"' if set(argument) & set("<>, ") else argument


def readme() -> None:
    """Put the real output between the README's markers."""
    path = ROOT / "README.md"
    text = path.read_text()
    for name, command in SCREENS.items():
        start = f"<!-- screen: isoflop {name} -->"
        if start not in text:
            continue
        head, rest = text.split(start, 1)
        tail = rest.split(END, 1)[1]
        shown = " ".join(quoted(a) for a in command)
        text = f"{head}{start}\n```\n$ isoflop {shown}\n{run(*command)}\n```\n{END}{tail}"
    path.write_text(text)


def validation(data: Path) -> None:
    """Error by source of the serving and training files."""
    parts = ["# Predicted against measured\n"]
    for name in ("serving/silicon_agg.csv", "serving/measurements.csv",
                 "training/measurements.csv"):  # fmt: skip
        path = data / "data" / name
        if not path.exists():
            print(f"{name} is not beside this checkout; docs/validation.md is left as it is")
            return
        parts.append(f"## {name}\n\n```\n{run('validate', str(path))}\n```\n")
    (ROOT / "docs/validation.md").write_text("\n".join(parts))


METHODS = (
    ("Serving", "isoflop methods run", "llama-3.1-8b --on h100-sxm", method_names, find_method),
    ("Training", "isoflop training run", "llama-3.1-8b --on 64xdgx-h100", training_method_names,
     find_training_method),
    ("Spending a training budget", "isoflop spend 1e22 --choose", "", choice_names, find_choice),
    ("Searching settings", "isoflop tune space.toml --command ... --method", "", searcher_names,
     find_searcher),
)  # fmt: skip


def methods() -> None:
    """One short section per method, from what the method says of itself."""
    parts = [
        "# Methods\n",
        "Ideas from papers, each a named option. Every section is what the method says of itself: "
        "what it models, what it leaves out, and what can be set with `--set name=value`.\n",
    ]
    for title, command, tail, names, find in METHODS:
        parts.append(f"## {title}\n")
        for name in names():
            found = find(name)
            text = inspect.cleandoc(type(found).__doc__ or "")
            body, _, reference = text.partition("References\n----------\n")
            reference = " ".join(reference.split())
            shown = getattr(found, "example", "") or tail
            parts.append(f"### {name}\n\n`{command} {name} {shown}`".replace(" `", "`") + "\n")
            parts.append(body.strip() + "\n")
            options = getattr(found, "options", {})
            if options:
                rows = [f"| {k} | {v[0]:g} | {v[1]} |" for k, v in options.items()]
                parts.append("| option | default | |\n|---|---:|---|\n" + "\n".join(rows) + "\n")
            parts.append(f"Source: {reference or found.reference}\n")
    (ROOT / "docs/methods.md").write_text("\n".join(parts))


def main() -> None:
    """Regenerate everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    arguments = parser.parse_args()
    for name, chart in CHARTS.items():
        run(*SCREENS[name], "--plot", str(ROOT / "docs" / chart))
    readme()
    methods()
    validation(arguments.data)


if __name__ == "__main__":
    main()
