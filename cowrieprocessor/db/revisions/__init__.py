"""The history of the schema: one change a file, spelled out, never edited after a release.

The revisions do not import the models: they say what was, the models say what is. A test compares the two.
"""
