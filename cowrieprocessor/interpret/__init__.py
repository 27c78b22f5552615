"""What text means: commands, and to come URLs, hosts and keys. No database."""
