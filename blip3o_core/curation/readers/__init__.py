"""Readers of the data engine: what samples a source has, in pieces, and the samples of a piece one after the other."""
