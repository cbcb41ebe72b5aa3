"""Editing: lists of edits, masks, and image numbers in instructions."""
