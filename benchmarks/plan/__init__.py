"""A suite or a command turned into jobs."""
