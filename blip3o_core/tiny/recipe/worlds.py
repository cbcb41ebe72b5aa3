"""The world that a stage of the recipe trains in: its own shares of categories and colours, and all that there is."""

from dataclasses import replace

from ..scenes.world import SECOND, TEXT, World

WORDS = 0.25  # share of scenes with words


def whole(world: World, words: float = WORDS) -> World:
    """The world of a stage with textures, words and images of all shapes added."""
    total = sum(weight for _, weight in world.weights)
    weights = (*world.weights, (TEXT, total * words / (1 - words)))
    return replace(
        world, weights=weights, textured=SECOND.textured, oblong=SECOND.oblong, lettered=True, low_contrast=False
    )
