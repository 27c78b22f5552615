"""Dead letters replayed and purged."""
