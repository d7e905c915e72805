"""Approximate, reproducible and fault-tolerant arithmetic, one idea per file."""
