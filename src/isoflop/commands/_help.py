"""Help pages of commands: paragraphs of docstrings set to the width of the screen.

Docstrings hold plain paragraphs, so their lines are joined here and wrapped by the console; a
Markdown renderer would do the same, and importing it costs as much as importing the parser.
"""

from __future__ import annotations

from typing import Any


class HelpPages:
    """Cyclopts' default panels with every description's paragraphs wrapped.

    It delegates, and does not inherit, so that the panels are imported only by who asks for help.
    """

    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        """Print one panel of options or commands."""
        for entry in panel.entries:
            _join_lines(entry.description)
        _default()(console, options, panel)

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        """Print the usage line."""
        _default().render_usage(console, options, usage)

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        """Print what the command does."""
        _join_lines(description)
        _default().render_description(console, options, description)


def _default() -> Any:
    from cyclopts.help import DefaultFormatter

    return DefaultFormatter()


def _join_lines(description: Any) -> None:
    """Make one line of each paragraph, in place."""
    from rich.text import Text

    text = getattr(description, "primary_renderable", None)
    if isinstance(text, Text):
        paragraphs = (" ".join(part.split()) for part in text.plain.split("\n\n"))
        description.primary_renderable = Text("\n\n".join(paragraphs))
