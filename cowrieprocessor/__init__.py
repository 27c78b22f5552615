"""From Cowrie honeypot logs to a database of sessions, commands and captured files."""

__version__ = "0.4.0"

__all__ = ["__version__"]
