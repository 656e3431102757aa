"""common: what the packages share; it imports none of them."""
