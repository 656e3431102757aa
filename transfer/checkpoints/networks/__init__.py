"""Checkpoints of networks that are no ResNets: their names, sizes and what stands beside them."""
