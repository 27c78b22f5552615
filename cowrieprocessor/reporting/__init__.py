"""Answers: SQL into dataclasses (`queries`), reports, and their text, CSV and JSON (`render`)."""
