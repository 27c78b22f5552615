"""The kinds of damage in `log_damage`. This module imports nothing: the parser process starts often."""

REFUSED = "refused"
"""A value that is not an event."""

NUL = "nul"
"""A run of NUL bytes."""

TORN_END = "end"
"""The torn value at the end of a log, after its cursor."""
