"""Benchmarks and ablations as commands; their results are in docs/results."""
