"""Regenerate what the documentation shows: the README's screen and chart, and validation tables.

    python tools/build_docs.py [--data ../shared]

The validation tables need the measured data beside the checkout and are left as they are without
it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

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
CHARTS = {"explain": "explain.svg", "advise": "advise.svg", "plan": "plan.svg", "fit": "fit.svg"}
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
    """Error by source of both serving files."""
    parts = ["# Predicted against measured\n"]
    for name in ("silicon_agg.csv", "measurements.csv"):
        path = data / "data/serving" / name
        if not path.exists():
            print(f"{name} is not beside this checkout; docs/validation.md is left as it is")
            return
        parts.append(f"## {name}\n\n```\n{run('validate', str(path))}\n```\n")
    (ROOT / "docs/validation.md").write_text("\n".join(parts))


def main() -> None:
    """Regenerate everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    arguments = parser.parse_args()
    for name, chart in CHARTS.items():
        run(*SCREENS[name], "--plot", str(ROOT / "docs" / chart))
    readme()
    validation(arguments.data)


if __name__ == "__main__":
    main()
