"""Upgrade from version 3 to 4 and rollback: preflight, backfill, recount, rollback, export of v4-only state."""
