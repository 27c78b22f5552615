"""What every long job needs: ownership, throttling, back-off, and a guard over the database file."""
