"""The benchmarks: their files, the questions made of their rows, and the prompts."""
