"""The commands of `cowrieprocessor db`, one module each."""
