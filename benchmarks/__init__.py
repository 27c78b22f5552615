"""Measurements of cowrieprocessor and the inputs they are made with; see benchmarks/README.md."""
