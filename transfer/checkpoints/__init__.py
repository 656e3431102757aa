"""Other projects' checkpoints: recognised, read strictly, imported."""
