"""The commands that qvl-core brings, one module each: `register(app)` adds it, the work is imported inside."""
