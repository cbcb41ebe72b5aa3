"""GRPO on the language model."""
