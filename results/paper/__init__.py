"""The papers' numbers, and measured ones beside them."""
