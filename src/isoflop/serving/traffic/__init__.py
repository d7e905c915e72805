"""Traffic: traces read from files and generated ones."""

from .trace import Trace, read_lines, read_trace

__all__ = ["Trace", "read_lines", "read_trace"]
