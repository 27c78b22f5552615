"""Tests of the long jobs."""
