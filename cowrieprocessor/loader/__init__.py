"""From log files and captured files into the database: reader, events, writer, and the drivers on top."""
