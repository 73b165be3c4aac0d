"""Two evaluations of the same rows against each other."""
