"""The `detco` command."""
