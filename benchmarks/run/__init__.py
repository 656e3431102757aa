"""Jobs run here or on a cluster, and watched."""
