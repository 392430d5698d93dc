"""Benchmarks: `python -m benchmarks.<name>` measures, and prints its results as JSON on the last line."""
