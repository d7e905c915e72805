"""One file per command: arguments to a library call to a rendered answer."""
