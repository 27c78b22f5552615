"""The commands of `cowrieprocessor files`."""
