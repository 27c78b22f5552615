"""Backup, restore and optimization of a whole database."""
