"""Benchmarks: `python -m benchmarks` prints errors and ratios, never pass or fail."""
