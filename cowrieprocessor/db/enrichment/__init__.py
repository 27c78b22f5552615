"""Statements of enrichment: queue, claims, cache, quota, verdicts and their history."""
