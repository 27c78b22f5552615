"""Lists and reports: SQL into dataclasses (`queries`), and dataclasses into text, CSV and JSON (`render`)."""
