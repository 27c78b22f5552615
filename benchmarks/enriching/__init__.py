"""Benchmarks of enrichment: cases, inputs, floors and stand-ins."""
