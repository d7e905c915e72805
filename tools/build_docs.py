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
DEMO = ["explain", "llama-3.1-8b", "--on", "h100-sxm"]
START, END = "<!-- screen: isoflop explain -->", "<!-- end of screen -->"


def run(*arguments: str) -> str:
    """Output of one isoflop command."""
    done = subprocess.run(
        [sys.executable, "-m", "isoflop.cli", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def readme() -> None:
    """Put the real output between the README's markers."""
    path = ROOT / "README.md"
    text = path.read_text()
    head, rest = text.split(START, 1)
    tail = rest.split(END, 1)[1]
    screen = f"{START}\n```\n$ isoflop {' '.join(DEMO)}\n{run(*DEMO)}\n```\n{END}"
    path.write_text(head + screen + tail)


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
    run(*DEMO, "--plot", str(ROOT / "docs/explain.svg"))
    readme()
    validation(arguments.data)


if __name__ == "__main__":
    main()
