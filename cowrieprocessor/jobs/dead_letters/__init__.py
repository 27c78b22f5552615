"""Replay and purge of dead letters."""
