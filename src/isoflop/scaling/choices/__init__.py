"""Decisions beyond size and tokens, one file each; see `isoflop.scaling.choice`."""
