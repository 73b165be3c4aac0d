"""The commands that qvl-train brings, one module each. They read folders of runs and need no framework."""
