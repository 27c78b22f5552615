"""Which log a file is, how far it is stored, and which of its events are stored already."""
