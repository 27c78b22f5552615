"""Captured files: Cowrie's downloads folder scanned, each file read once, nothing executed."""
