"""Tensors in files: reading, checking and naming them."""
