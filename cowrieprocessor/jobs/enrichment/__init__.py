"""Enrichment as a job: the loop, and what stores answers, replays and propagates them."""
