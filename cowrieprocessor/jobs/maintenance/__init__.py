"""Backup, restore and optimize: a database as a whole."""
