"""L3: what a serving engine makes of step costs."""
