"""From the bytes of files to JSON values: discovery, decompression, one grammar for every log form."""
