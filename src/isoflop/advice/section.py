"""What a section of `isoflop explain --show` is."""

from __future__ import annotations

Section = tuple[str, list[str], list[list[str]], str]
"""Title, column heads, rows and the note below them."""
