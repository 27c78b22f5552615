"""A honeypot's files and all that happens to them, a model of what can be known of them, and what compares the two."""
