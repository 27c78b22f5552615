"""A database as files: copied, locked, held open by other processes."""
