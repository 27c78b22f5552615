"""Interpretation of text without a database: commands; URLs, hosts and keys will follow."""
