"""pretrain: makes a backbone file from pictures."""
