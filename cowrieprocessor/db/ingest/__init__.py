"""Statements of the loaders: events, logs, followed files, and what is stored already."""
