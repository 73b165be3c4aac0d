"""A benchmark asked from the first row to the report: replicas, resumption, pre-flight, files."""
