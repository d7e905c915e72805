"""Trace formats, one file each: a final class with `knows(first_line)` and `read(lines, name)`."""
