"""L2: what a computation costs: operators, roofline, collectives, memory, energy, price."""
