"""Makes data sets readable: lists of a split, other formats converted. Nothing is overwritten."""
