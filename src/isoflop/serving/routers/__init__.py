"""Routers, one file each; see `isoflop.serving.router`."""
