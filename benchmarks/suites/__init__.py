"""What to compare: built in, or in a file."""
