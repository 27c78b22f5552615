"""The tables that version 4 adds, by subject; `db/models.py` has all of them."""
