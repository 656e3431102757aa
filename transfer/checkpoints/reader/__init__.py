"""Tensors out of files of any kind; nothing in a file is executed."""
