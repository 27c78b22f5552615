"""Validation: every row of version 4 is recomputed from the events by independent code, and compared."""
