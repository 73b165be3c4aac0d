"""What `parallel.py` measures with: one program for all layouts' steps, and whole runs up to their first step."""
