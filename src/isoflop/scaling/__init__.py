"""L3: scaling laws, from runs to a decision with an interval."""
