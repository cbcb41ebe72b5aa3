"""BLIP3o-NEXT as a library: a language model writes an image as tokens, a diffusion transformer renders it."""

from .errors import Blip3oError

__all__ = ["Blip3oError"]
