"""The largest requests that are taken on. Node schemas name these numbers, so nothing heavy is imported here."""

from ..blip3o_core.errors import Blip3oError

MAX_BATCH = 64  # images whose tokens are written at once
# Of a latent. ComfyUI scales its previews to 512 pixels. From 1024 on they have no height, which ends the server.
MAX_ASPECT = 64


def check_latent_size(height: int, width: int, cell: int) -> None:
    """Raise Blip3oError for a latent of `height` x `width` cells, each of `cell` pixels, that is too long."""
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise Blip3oError(
            f"The latent is for an image of {width * cell}x{height * cell} pixels. The longer side may be at most "
            f"{MAX_ASPECT} times as long as the shorter one. Choose another size."
        )
