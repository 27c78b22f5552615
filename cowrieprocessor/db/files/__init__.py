"""The database as a file: copies, locks, and the processes that have it open."""
