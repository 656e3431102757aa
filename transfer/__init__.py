"""transfer: puts one backbone file through one detection protocol."""
