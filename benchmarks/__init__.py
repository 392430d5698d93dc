"""What the performance numbers are made by: `python -m benchmarks.<name>` prints JSON last."""
