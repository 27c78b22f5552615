"""Runs tasks when they are due. A task is known by its entry point alone."""
