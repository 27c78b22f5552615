"""Answers as text, CSV and JSON. Everything an attacker chose is made inert here, and only here."""
