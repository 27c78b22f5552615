"""Tests of the worker and its tasks."""
