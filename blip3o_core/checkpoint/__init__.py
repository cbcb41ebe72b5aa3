"""Checkpoint folders: which files they hold, what is wrong with them, and the parts made of them."""
