"""PostgreSQL: sessions, advisory locks, and server-side cursors."""
