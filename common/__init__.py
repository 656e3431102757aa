"""common: what all packages share; it imports nothing of the house."""
