"""The database: engines, schema, revisions, and what SQLite and PostgreSQL do differently."""
