"""Speed measurements: the ordinary way and ours, side by side in one run."""
