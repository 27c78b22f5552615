"""Databases of version 3 of any size whose exact answer is known."""
