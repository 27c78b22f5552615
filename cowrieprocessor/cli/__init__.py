"""The command line: each command parses its options, makes one library call and renders the result."""
