"""Read-only queries: each function takes a connection and returns frozen dataclasses.

Every list has a total order that is the same on SQLite and PostgreSQL. Texts are returned as stored;
`reporting.render` makes them safe to show.
"""
