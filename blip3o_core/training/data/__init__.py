"""Training data: lists of items, packed latents, and batches."""
