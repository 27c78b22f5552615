"""What a validation reads from the database, and where it keeps what it recomputed."""
