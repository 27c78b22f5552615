"""What the database can be asked: each function takes a connection and returns frozen dataclasses.

Every list has a total order that is the same on SQLite and PostgreSQL. Texts are as they are stored; whoever
shows them makes them inert (`reporting.render`).
"""
