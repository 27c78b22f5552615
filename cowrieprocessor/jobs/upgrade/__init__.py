"""From version 3 to 4 and back: preflight, backfill, recount, rollback."""
