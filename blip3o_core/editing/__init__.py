"""Editing: reference images, masks, lists of edits, and image numbers in instructions."""
