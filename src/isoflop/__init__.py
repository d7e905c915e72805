"""isoflop: what bounds a language-model computation, and where the next unit of compute goes."""

__version__ = "0.1.0"
