"""L4: predictions held against published measurements."""
