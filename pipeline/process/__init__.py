"""A stage as a process: command line, device, lifecycle, workers, recovery."""
