"""Parts of benchmarks/plan.py: what is measured on CPU, and what others have published."""
