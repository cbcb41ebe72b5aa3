"""How large an image may be anywhere here."""

MAX_SIDE = 16384  # pixels
