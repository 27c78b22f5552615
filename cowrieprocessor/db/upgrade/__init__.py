"""Statements for moving between version 3 and 4: migration, backfill, recount, rollback."""
