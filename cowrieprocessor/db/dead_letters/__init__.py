"""Statements on dead letters, and the positions of their values in raw_events."""
