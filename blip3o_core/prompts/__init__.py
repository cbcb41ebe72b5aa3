"""Prompts: templates, special tokens and image tokens of a checkpoint's vocabulary."""
