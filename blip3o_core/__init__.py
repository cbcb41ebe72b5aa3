"""BLIP3o-NEXT as a library: a language model writes a picture as image tokens, a diffusion transformer renders it."""

from .errors import Blip3oError

__all__ = ["Blip3oError"]
