"""Solvable models whose scaling laws are computed, not fitted."""
