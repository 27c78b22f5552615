"""The history of the schema: one change per file, written out in full, never edited after a release.

The revisions do not import the models: revisions describe the past, the models the present. A test compares the two.
"""
