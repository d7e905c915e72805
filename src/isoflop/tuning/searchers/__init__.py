"""Search rules, one file each; see `isoflop.tuning.searcher`."""
