"""Pages about runs, and what differs between two of them. Reads folders of runs; imports no framework."""
