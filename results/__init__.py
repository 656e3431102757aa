"""results: remembers, compares and shows what was measured."""
