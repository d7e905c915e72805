"""Law forms, one file each; see `isoflop.scaling.law`."""
