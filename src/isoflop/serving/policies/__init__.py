"""Scheduling policies, one file each; see `isoflop.serving.policy`."""
