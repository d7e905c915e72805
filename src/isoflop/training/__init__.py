"""L3: training plans, their memory, time, price and risk, and the search for the best one."""
