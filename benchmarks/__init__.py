"""Benchmarks of cowrieprocessor and the generators of their inputs; see benchmarks/README.md."""
