"""Every row of version 4 recomputed from the events by code of its own, and compared."""
