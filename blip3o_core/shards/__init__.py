"""Shard folders: images with their texts in .tar files that are read at any item without being read through."""
