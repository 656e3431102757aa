"""Turns a suite or a command into jobs."""
