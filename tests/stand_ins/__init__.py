"""Stand-ins for the services that are asked about files: real HTTP servers on loopback."""
