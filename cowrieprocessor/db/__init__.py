"""The database: engines, schema, revisions, and the differences between SQLite and PostgreSQL."""
