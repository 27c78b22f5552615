"""Options, error handling, progress display and signal handling shared by several commands."""
