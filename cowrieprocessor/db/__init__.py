"""The database: engines, schema, revisions, and what SQLite and PostgreSQL do differently."""

from cowrieprocessor.db.dialects import generated_columns as _generated_columns  # noqa: F401  registers a hook
