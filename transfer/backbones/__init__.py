"""The backbone file: read, shown, exported."""
