"""results: stores, compares and shows what was measured."""
