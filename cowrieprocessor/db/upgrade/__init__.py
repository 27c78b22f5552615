"""Everything that knows of version 3: migrating, backfilling, recounting, rolling back."""
