"""Verdicts of external sources on captured files: looked up within quota, stored, and kept current."""
