"""Generated v3 databases of any size whose exact answer is known."""
