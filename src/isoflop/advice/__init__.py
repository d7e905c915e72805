"""L4: results become findings, each with its evidence and the next best change."""
