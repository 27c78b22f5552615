"""Database access of the validation: its queries, and the storage for recomputed rows."""
