"""Serving methods from papers, one file each; see `isoflop.serving.method`."""
