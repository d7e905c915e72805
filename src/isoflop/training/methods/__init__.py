"""Training methods from papers, one file each; see `isoflop.training.method`."""
