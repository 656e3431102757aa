"""Suites (what to compare): built in, or from a file."""
