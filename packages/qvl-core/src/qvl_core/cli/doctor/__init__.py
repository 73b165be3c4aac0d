"""`qvl doctor`: what is installed, what is missing, and how to get it. Each check gives one row."""
