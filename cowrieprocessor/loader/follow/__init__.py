"""Logs that grow: tails, rotation, truncation, and gaps."""
