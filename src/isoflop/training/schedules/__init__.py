"""Pipeline schedules, one file each; see `isoflop.training.schedule`."""
