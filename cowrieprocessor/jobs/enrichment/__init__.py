"""Enrichment as a job: the loop, and what stores, replays and propagates answers."""
