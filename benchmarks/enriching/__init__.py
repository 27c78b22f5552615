"""Enrichment, measured: inputs, floors and stand-ins."""
