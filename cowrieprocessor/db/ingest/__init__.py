"""Statements of the loaders: events, logs, followed files, and the lookup of events already stored."""
