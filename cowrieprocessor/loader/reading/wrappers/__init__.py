"""What other programs put around Cowrie's lines: one module per family, `registry` chooses the wrapper of a log."""
