"""Long jobs on a database: migration's backfill, validation, backup, restore and rollback."""
