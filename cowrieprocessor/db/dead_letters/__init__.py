"""Statements about dead letters, and where their values belong."""
