"""SQLite: connections, transactions, and what is done with its file as a whole."""
